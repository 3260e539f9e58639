// Writes to the page, only where something changed. Text from the server is inserted as text, never
// as HTML.

import { formatAge, formatRelative } from "./format.js";

export const $ = (id) => document.getElementById(id);

export function setText(element, text) {
  if (element.firstChild?.data !== text) element.textContent = text;
}

/** Sets an attribute; null removes it. */
export function setAttribute(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function setVisible(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/** Creates an element with this class and content. */
export function create(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

/** Shows a timestamp relative to now, or with `data-plain` as an age. */
export function setTime(element, timestamp) {
  if (element.dateTime !== timestamp) {
    element.dateTime = timestamp;
    element.title = new Date(timestamp).toLocaleString();
  }
  const text = "plain" in element.dataset ? formatAge(timestamp) : formatRelative(timestamp);
  setText(element, (element.dataset.prefix ?? "") + text);
  return element;
}

export const createTime = (timestamp) => setTime(create("time", "quiet"), timestamp);

/**
 * Builds the children from the data if the data changed. Children in which the user has selected
 * text stay as they are, so that the text can be copied.
 */
export function setChildren(element, data, build) {
  const fingerprint = JSON.stringify(data) ?? "";
  if (element.fingerprint === fingerprint) return;
  const selection = getSelection();
  const selected = !selection.isCollapsed && element.contains(selection.anchorNode);
  if (element.fingerprint && selected) return;
  element.fingerprint = fingerprint;
  element.replaceChildren(...build(data));
}

/** Makes a button copy its text when it is clicked. */
export function setCopyText(button, text) {
  setText(button, text);
  button.dataset.copy = text;
  return button;
}

let toastTimer;

/** Shows a message for a few seconds. */
export function showToast(text, isError = false) {
  const toast = $("toast");
  setText(toast, text);
  toast.className = isError ? "shown bad" : "shown";
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (toast.className = ""), isError ? 10000 : 5000);
}
