/** Which rows of a long table are in the document: those in sight, and a few beyond. Pure arithmetic. */

/** Rows beyond the edges: enough that a page of scrolling shows no gap, few enough to be built within a frame. */
export const BEYOND = 12;

/**
 * Return the rows to show, from `first` to before `last`, and the heights of what is left out above and below.
 *
 * All rows are `rowHeight` pixels high. `top` is how far the table is scrolled, `height` how much of it is in sight.
 */
export function visible({ count, rowHeight, top, height }, beyond = BEYOND) {
  const inSight = Math.ceil(height / rowHeight);
  // A table that has become shorter may still be scrolled past its end.
  const uppermost = Math.max(0, Math.min(Math.floor(top / rowHeight), count - inSight));
  const first = Math.max(0, uppermost - beyond);
  const last = Math.min(count, uppermost + inSight + beyond);
  return { first, last, above: first * rowHeight, below: (count - last) * rowHeight };
}

/** Return how far to scroll so that a row is in sight: not at all if it is. `header` covers the top. */
export function scrolledTo(row, { rowHeight, top, height, header = 0 }) {
  const from = row * rowHeight;
  if (from < top) return from;
  if (from + rowHeight > top + height - header) return from + rowHeight - height + header;
  return top;
}
