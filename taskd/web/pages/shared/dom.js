/** Elements, made without HTML texts: nothing that comes from a server is ever parsed as HTML. */

/**
 * Return a new element. Names of `attributes` that begin with "on" add listeners; `true` and `false` set and leave out
 * an attribute, as undefined and null do. Children that are texts become text; null and false are left out.
 */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else setAttribute(element, key, value);
  }
  element.append(...children.flat().filter(child => child != null && child !== false));
  return element;
}

/** Set an attribute, or remove it if the value is false, null or undefined. */
export function setAttribute(element, name, value) {
  if (value === false || value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
}

/** Set an element's text, unless it is that already: a screen reader reads out each change. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let lastId = 0;

/** Return an id that no other element of the page has. */
export function newId(prefix = "id") {
  return `${prefix}-${++lastId}`;
}

/**
 * Show one element for each item in `parent`, in their order, with as few changes as possible: what has the focus keeps it.
 *
 * `key` returns what distinguishes an item from the others, `create` its element, and `update` changes that element.
 */
export function showEach(parent, items, { key, create, update = () => {} }) {
  const known = new Map([...parent.children].map(child => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = known.get(name);
    known.delete(name);
    if (!element) {
      element = create(item);
      element.dataset.key = name;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of known.values()) element.remove();
}

/** Return a function that calls `act` in the browser's next frame, once however often it is called before. */
export function inNextFrame(act) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      act();
    });
  };
}
