// The table of actors: as a tree, or as a flat list sorted by a metric.

import { $, create, setAttribute, setText, setVisible } from "./dom.js";
import { compareNames } from "./format.js";
import { focusableRow } from "./navigation.js";
import { actorRow, nodeRow, removeRow, rows } from "./rows.js";
import { changed, keyOf, state } from "./state.js";

/** How long the order of the flat list stays after the last use, so that rows can be clicked. */
const ORDER_PAUSE_MS = 3000;

/** The table section of the flat list; the others have a peer's name. */
const FLAT = "flat";

/** Peer → table section. */
const sections = new Map();

let flatOrder = { metric: "", positions: new Map() };
let usedAt = -Infinity;

/** Notes that the user is working in the list. */
export const keepOrder = () => (usedAt = performance.now());

/** Every actor and group of the cluster, with its node. */
export const allItems = () =>
  [...state.nodes.values()].flatMap((node) =>
    [...node.items.values()].map((item) => ({ node, item })));

/** Brings the table up to date with the state. */
export function renderList() {
  const focused = document.activeElement;
  const all = allItems();
  for (const { node, item } of all) {
    item.matches = matchesFilter(node, item) && (state.order === "tree" || !item.group);
  }
  const flat = state.order === "tree" ? [] : flatList(all);
  const current = new Set(flat);
  for (const node of state.nodes.values()) {
    const section = treeSection(node);
    section.forEach((row) => current.add(row));
    renderSection(node.peer, section);
  }
  renderSection(FLAT, flat);
  for (const [key, row] of rows) if (!current.has(row)) removeRow(key, row);
  for (const [peer, section] of sections) {
    if (peer !== FLAT && !state.nodes.has(peer)) {
      sections.delete(peer);
      section.remove();
    }
  }
  setAttribute($("tree"), "data-order", state.order);
  renderEmpty(all.some(({ item }) => item.matches));
  focusableRow();
  // Moving a row in the document takes the focus from it.
  const lostFocus = focused?.isConnected && focused !== document.activeElement;
  if (lostFocus && focused.closest("#tree")) focused.focus({ preventScroll: true });
}

/** Removes all rows. */
export function clearList() {
  rows.clear();
  sections.forEach((section) => section.remove());
  sections.clear();
}

function matchesFilter(node, item) {
  if (!state.filter.length) return true;
  const { path, actor } = item;
  const text = `${node.node} ${node.peer} ${path} ${actor.status} ${actor.kind}`.toLowerCase();
  return state.filter.every((word) => text.includes(word));
}

/** The rows of a node and, in the tree, of its actors. */
function treeSection(node) {
  const section = [nodeRow(node)];
  if (state.order === "tree") {
    const isOpen = !state.collapsed.has(keyOf(node.peer, ""));
    for (const root of node.roots) addBranch(node, root, isOpen, section);
  }
  return section;
}

/** Adds an item and those below it. Returns whether one of them matches the filter. */
function addBranch(node, item, isOpen, section) {
  const row = actorRow(node, item);
  section.push(row);
  const isChildOpen = isOpen && !state.collapsed.has(row.dataset.key);
  let anyMatches = item.matches;
  for (const child of item.children) {
    anyMatches = addBranch(node, child, isChildOpen, section) || anyMatches;
  }
  const isFiltered = state.filter.length > 0;
  setVisible(row, isFiltered ? anyMatches : isOpen);
  setAttribute(row, "data-passed", isFiltered && anyMatches && !item.matches ? "" : null);
  return anyMatches;
}

/** The rows of all actors by the chosen metric, from the highest value. */
function flatList(all) {
  const actors = all.filter(({ item }) => !item.group);
  const metric = state.order;
  if (flatOrder.metric !== metric || performance.now() - usedAt > ORDER_PAUSE_MS) {
    const value = ({ item }) => item.actor[metric] ?? -1;
    const sorted = [...actors].sort((a, b) =>
      value(b) - value(a) ||
      compareNames(a.item.path, b.item.path) ||
      compareNames(a.node.peer, b.node.peer));
    const keys = sorted.map(({ node, item }, i) => [keyOf(node.peer, item.path), i]);
    flatOrder = { metric, positions: new Map(keys) };
  }
  const position = ({ node, item }) =>
    flatOrder.positions.get(keyOf(node.peer, item.path)) ?? Infinity;
  return actors.sort((a, b) => position(a) - position(b)).map(({ node, item }) => {
    const row = actorRow(node, item);
    setAttribute(row, "data-passed", null);
    setVisible(row, item.matches);
    return row;
  });
}

/** Puts these rows into the section, moving as few of them as possible. */
function renderSection(name, list) {
  let section = sections.get(name);
  if (!section) {
    section = create("tbody");
    sections.set(name, section);
  }
  const next = name === FLAT ? null : sections.get(FLAT) ?? null;
  if (!section.isConnected) $("tree").insertBefore(section, next);
  const kept = new Set(list);
  for (const row of [...section.children]) if (!kept.has(row)) row.remove();
  let at = section.firstElementChild;
  for (const row of list) {
    if (row === at) at = at.nextElementSibling;
    else section.insertBefore(row, at);
  }
}

function renderEmpty(anyMatches) {
  const isFiltered = state.filter.length > 0;
  const filter = $("filter").value.trim();
  const text = isFiltered ? `No actor matches “${filter}”.` : "No node has responded yet.";
  setText($("empty").firstElementChild, text);
  setVisible($("empty").lastElementChild, isFiltered);
  setVisible($("empty"), !anyMatches && (isFiltered || state.nodes.size === 0));
}

export function setFilter(text) {
  $("filter").value = text;
  state.filter = text.toLowerCase().split(/\s+/).filter(Boolean);
  changed();
}

/** Shows the tree, or the flat list sorted by this metric. */
export function setOrder(order) {
  state.order = order;
  $("order").value = order;
  for (const button of document.querySelectorAll("th button")) {
    const isSorted = order !== "tree" && button.dataset.order === order;
    setAttribute(button.parentElement, "aria-sort", isSorted ? "descending" : null);
  }
  changed();
  $("list").scrollTop = 0;
}
