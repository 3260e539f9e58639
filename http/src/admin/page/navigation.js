// Moving between the rows with the keyboard. One row is in the tab order: the one used last.

import { $ } from "./dom.js";
import { rows } from "./rows.js";
import { changed, keyOf, state } from "./state.js";

/** How long a row has the focus before open details follow it. */
const FOLLOW_DELAY_MS = 150;

let activeKey = null;
let followTimer;
let openDetails = () => {};

/** Calls the listener with { peer, path } when the user opens an actor. */
export const onOpen = (listener) => (openDetails = listener);

export const visibleRows = () => [...$("tree").querySelectorAll("tbody tr:not([hidden])")];

/** The row used last. */
export const activeRow = () => rows.get(activeKey);

/** Makes sure that a row is in the tab order. */
export const focusableRow = () => setActiveRow(activeRow() ?? visibleRows()[0]);

/** Puts this row alone into the tab order. */
export function setActiveRow(row) {
  if (!row || (activeKey === row.dataset.key && row.tabIndex === 0)) return;
  for (const other of $("tree").querySelectorAll('tr[tabindex="0"]')) {
    if (other !== row) other.tabIndex = -1;
  }
  row.tabIndex = 0;
  activeKey = row.dataset.key;
}

export const open = (row) => openDetails({ peer: row.dataset.peer, path: row.item.path });

/** Moves the focus to a row. If details are open, they follow. */
export function focusRow(row) {
  if (!row) return;
  setActiveRow(row);
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
  clearTimeout(followTimer);
  const follow = () => state.selected && row.item && open(row);
  if (state.selected && row.item) followTimer = setTimeout(follow, FOLLOW_DELAY_MS);
}

/** Expands or collapses a branch; without `expand`, the other of what it is. */
export function toggle(row, expand) {
  if (!row.hasAttribute("aria-expanded")) return;
  const { key } = row.dataset;
  if (expand ?? state.collapsed.has(key)) state.collapsed.delete(key);
  else state.collapsed.add(key);
  changed();
}

function activate(row) {
  if (!row.item) return toggle(row);
  const { peer, path } = row.dataset;
  const isOpen = state.selected?.peer === peer && state.selected.path === path;
  if (isOpen) $("details").focus();
  else open(row);
}

function parentRow(row) {
  if (!row.item) return null;
  return rows.get(keyOf(row.dataset.peer, row.item.parent?.path ?? ""));
}

/** Handles a key in the table. Returns whether it has a meaning there. */
export function handleRowKey(key, row) {
  const list = visibleRows();
  const at = list.indexOf(row);
  const expanded = row.getAttribute("aria-expanded");
  const keys = {
    ArrowDown: () => focusRow(list[at + 1] ?? list.at(-1)),
    ArrowUp: () => focusRow(list[Math.max(0, at - 1)]),
    Home: () => focusRow(list[0]),
    End: () => focusRow(list.at(-1)),
    ArrowRight: () => {
      if (expanded === "false") toggle(row, true);
      else if (expanded === "true") focusRow(list[at + 1]);
    },
    ArrowLeft: () => {
      if (expanded === "true") toggle(row, false);
      else if (state.order === "tree") focusRow(parentRow(row));
    },
    Enter: () => activate(row),
  };
  if (!Object.hasOwn(keys, key)) return false;
  keys[key]();
  return true;
}
