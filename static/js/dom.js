/** Short names for what every behaviour does with the page. */

/**
 * The first element that matches.
 * @param {string} selector
 * @param {ParentNode} [root]
 * @returns {HTMLElement | null}
 */
export const one = (selector, root = document) => root.querySelector(selector);

/**
 * All elements that match.
 * @param {string} selector
 * @param {ParentNode} [root]
 * @returns {HTMLElement[]}
 */
export const all = (selector, root = document) => [.../** @type {NodeListOf<HTMLElement>} */ (root.querySelectorAll(selector))];

/**
 * Whether keys belong to a field that is being typed into.
 * @param {EventTarget | null} target
 */
export function isTyping(target) {
  const fields = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select, [contenteditable]";
  return target instanceof Element && target.closest(fields) !== null;
}

/**
 * JSON of a server-sent event that htmx dispatched; null when it holds none.
 * @param {Event} event
 * @returns {any}
 */
export function messageOf(event) {
  try {
    return JSON.parse(/** @type {CustomEvent} */ (event).detail.data);
  } catch {
    return null;
  }
}
