// The rows of the table: one per actor, group or node.

import { drawSparkline } from "./charts.js";
import { $, create, setAttribute, setChildren, setText, setVisible } from "./dom.js";
import {
  formatAge, formatClock, formatCount, formatMs, formatPercent, formatRate, formatRelative, plural,
} from "./format.js";
import { seriesOf } from "./history.js";
import { healthOf, keyOf, state, worstStatus } from "./state.js";
import { descendants } from "./tree.js";

/** The share of its capacity from which a mailbox is highlighted. */
const FULL_MAILBOX = 0.8;

/** The duration from which a p99 is highlighted, in milliseconds. */
const SLOW_MS = 1000;

/** The share of a second from which an actor counts as busy. */
const BUSY = 0.9;

/** The age from which a waiting event is highlighted, in seconds. */
const OLD_EVENT_SECONDS = 10;

/** Key → table row. */
export const rows = new Map();

/** Sparklines are drawn only where they are visible, or nearly so. */
const visibility = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    target.isOnScreen = isIntersecting;
    if (isIntersecting) drawSparklines(target);
  }
}, { rootMargin: "120px" });

function createRow(template, key, peer) {
  const row = $(template).content.firstElementChild.cloneNode(true);
  row.dataset.key = key;
  row.dataset.peer = peer;
  const parts = [...row.querySelectorAll("[class]")].map((part) => [part.className, part]);
  row.parts = Object.fromEntries(parts);
  rows.set(key, row);
  return row;
}

export function removeRow(key, row) {
  visibility.unobserve(row);
  rows.delete(key);
  row.remove();
}

/** The row of an actor or group, with its current values. */
export function actorRow(node, item) {
  const key = keyOf(node.peer, item.path);
  let row = rows.get(key);
  if (!row) {
    row = createRow("actor-row", key, node.peer);
    row.dataset.path = item.path;
    const { name, rate, mailbox } = row.parts;
    Object.assign(row.parts, {
      nameCell: name.querySelector(".cell"),
      rateText: rate.querySelector(".number"),
      rateSparkline: rate.querySelector("canvas"),
      depthText: mailbox.querySelector(".number"),
      depthSparkline: mailbox.querySelector("canvas"),
      fillBar: mailbox.querySelector(".bar > i"),
    });
    visibility.observe(row);
  }
  row.node = node;
  row.item = item;
  updateName(row);
  updateMetrics(row);
  if (row.isOnScreen && !row.hidden) drawSparklines(row);
  return row;
}

/** Sets a cell's text; zeros are dimmed, alarming values highlighted. */
export function setCell(element, text, isZero, isAlarming = false) {
  setText(element, text);
  const style = isZero ? "zero" : isAlarming ? "hot" : "";
  if (element.cellStyle === style) return;
  element.classList.remove("zero", "hot");
  if (style) element.classList.add(style);
  element.cellStyle = style;
}

function updateName(row) {
  const { item, node, parts } = row;
  const { actor } = item;
  const isFlat = state.order !== "tree";
  const isOpen = !state.collapsed.has(row.dataset.key);
  const isBranch = !isFlat && item.children.length > 0;
  const level = isFlat ? 1 : item.level;
  if (row.level !== level) {
    row.level = level;
    setAttribute(row, "aria-level", level);
    parts.nameCell.style.setProperty("--level", isFlat ? 0 : level - 2);
  }
  const isSelected = state.selected?.peer === node.peer && state.selected.path === item.path;
  setAttribute(row, "aria-expanded", isBranch ? isOpen : null);
  setAttribute(row, "data-status", actor.status);
  setAttribute(row, "data-health", healthOf(actor.status));
  setAttribute(row, "data-kind", actor.kind);
  setAttribute(row, "aria-selected", isSelected);
  const cut = Math.max(0, item.path.search(/[^/]+(\/\d+)?$/)); // "orders/0" rather than "0"
  setText(parts.prefix, isFlat ? item.path.slice(0, cut) : "");
  setText(parts.leaf, isFlat ? item.path.slice(cut) : item.name);
  setAttribute(parts.label, "title", item.path);
  let tag = item.group ? `× ${item.children.length}` : "";
  if (isFlat) tag = `${node.node} ${node.peer.replace(/^.*:/, ":")}`;
  else if (isBranch && !isOpen) tag = collapsedSummary(item);
  setText(parts.tag, tag);
  setText(parts.kind, actor.kind);
  setText(parts.state, actor.status);
  setText(parts.doing, activity(actor));
}

function updateMetrics(row) {
  const { item: { actor }, parts } = row;
  const { mailbox_depth: depth, mailbox_capacity: capacity } = actor;
  setCell(parts.rateText, formatRate(actor.messages_per_second), !actor.messages_per_second);
  const limit = capacity ? ` / ${formatCount(capacity)}` : "";
  const isNearlyFull = capacity && depth / capacity >= FULL_MAILBOX;
  setCell(parts.depthText, formatCount(depth) + limit, !depth, isNearlyFull);
  const fill = capacity ? Math.min(1, depth / capacity).toFixed(2) : "0";
  if (row.fill !== fill) {
    row.fill = fill;
    parts.fillBar.style.transform = `scaleX(${fill})`;
  }
  setAttribute(row, "data-unbounded", capacity ? null : "");
  const { handler_p99_ms: handler, mailbox_p99_ms: wait, busy_share: busy } = actor;
  setCell(parts.p99, formatMs(handler), !handler, handler >= SLOW_MS);
  setCell(parts.wait, formatMs(wait), !wait, wait >= SLOW_MS);
  setCell(parts.busy, formatPercent(busy), !(busy >= 0.005), busy >= BUSY);
  setCell(parts.restarts, formatCount(actor.restarts), !actor.restarts);
}

/** The text next to the status: the message being handled, or when the next restart is. */
function activity(actor) {
  if (actor.next_try_at) return formatRelative(actor.next_try_at);
  const { current } = actor;
  if (!current || (healthOf(actor.status) === "fine" && current.for_ms < 1000)) return "";
  return `${current.message} ${formatMs(current.for_ms)}`;
}

/** What a collapsed branch contains, with its worst status. */
function collapsedSummary(item) {
  const hidden = descendants(item).filter((one) => !one.group).map((one) => one.actor);
  const worst = worstStatus(hidden);
  const affected = hidden.filter((actor) => actor.status === worst).length;
  const isFine = healthOf(worst) === "fine" || item.group;
  return isFine ? `${hidden.length} inside` : `${hidden.length} inside, ${affected} ${worst}`;
}

function drawSparklines(row) {
  if (!row.item) return;
  const { node, item, parts } = row;
  const series = seriesOf(node, item);
  drawSparkline(parts.rateSparkline, series.messages_per_second, node.sampledAt, 1);
  drawSparkline(parts.depthSparkline, series.mailbox_depth, node.sampledAt, 10);
}

/** The row of a node, with its current state. */
export function nodeRow(node) {
  const key = keyOf(node.peer, "");
  const row = rows.get(key) ?? createRow("node-row", key, node.peer);
  row.node = node;
  const isBranch = node.reachable && state.order === "tree";
  setAttribute(row, "data-reachable", node.reachable);
  setAttribute(row, "aria-expanded", isBranch ? !state.collapsed.has(key) : null);
  setText(row.querySelector("strong"), node.node ?? "unknown node");
  setText(row.parts.peer, node.peer);
  setVisible(row.parts["node-buttons"], node.reachable);
  const facts = node.reachable ? nodeFacts(node) : unreachableFacts(node);
  setChildren(row.parts.facts, facts, () => facts.map(([text, style, title]) => {
    const fact = create("span", style, text);
    if (title) fact.title = title;
    return fact;
  }));
  return row;
}

/** What is shown of a node: [text, class, title]. */
function nodeFacts(node) {
  const facts = [];
  if (node.version) facts.push([`v${node.version}`, ""]);
  if (node.started_at) {
    const since = `since ${new Date(node.started_at).toLocaleString()}`;
    facts.push([`up ${formatAge(node.started_at)}`, "", since]);
  }
  if (node.broker != null) facts.push(node.broker ? ["broker up", "good"] : ["broker down", "bad"]);
  if (node.outbox) {
    const { length, age_seconds: age } = node.outbox;
    const text = `outbox ${formatCount(length)}, oldest ${formatMs(age * 1000)}`;
    const style = length && age >= OLD_EVENT_SECONDS ? "warn" : "";
    facts.push([length ? text : "outbox empty", style]);
  }
  if (node.dead_letters != null) {
    facts.push([plural(node.dead_letters, "dead letter"), node.dead_letters ? "warn" : ""]);
  }
  return facts;
}

function unreachableFacts(node) {
  const facts = [["unreachable", "bad"], [node.detail ?? "does not respond", ""]];
  if (node.sampledAt) facts.push([`last seen ${formatClock(node.sampledAt * 1000)}`, ""]);
  return facts;
}
