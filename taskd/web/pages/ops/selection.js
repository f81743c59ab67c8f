/** Which rows of a table are selected, by key: one by one, a range, all. */
export class Selection {
  #keys = new Set();
  #anchor = null;
  #changed;

  /** `changed` is called after each change. */
  constructor(changed = () => {}) {
    this.#changed = changed;
  }

  get size() {
    return this.#keys.size;
  }

  get keys() {
    return [...this.#keys];
  }

  has(key) {
    return this.#keys.has(key);
  }

  /** Select a row, or no longer; a range begins here. */
  toggle(key) {
    if (!this.#keys.delete(key)) this.#keys.add(key);
    this.#anchor = key;
    this.#changed();
  }

  /** Select all rows from the one that was toggled last to this one; `order` has the keys of all. */
  extend(key, order) {
    const from = order.indexOf(this.#anchor);
    const to = order.indexOf(key);
    if (from < 0 || to < 0) return this.toggle(key);
    for (const each of order.slice(Math.min(from, to), Math.max(from, to) + 1)) this.#keys.add(each);
    this.#changed();
  }

  /** Select all of these. */
  add(keys) {
    for (const key of keys) this.#keys.add(key);
    this.#changed();
  }

  /** Select none. */
  clear() {
    this.#anchor = null;
    if (!this.#keys.size) return;
    this.#keys.clear();
    this.#changed();
  }
}
