// Builds a tree of items from the flat list of a node's actors.

import { compareNames } from "./format.js";
import { parentPath, worstStatus } from "./state.js";

const SUMMED = [
  "messages_per_second", "mailbox_depth", "restarts", "handled", "rejected", "expired", "lost",
];
const MAXIMA = [
  "mailbox_high_water", "busy_share",
  "mailbox_p50_ms", "mailbox_p99_ms", "mailbox_max_ms",
  "handler_p50_ms", "handler_p99_ms", "handler_max_ms",
];

/**
 * The items by path, and those without a parent. "orders/0" and "orders/1" without an actor
 * "orders" get an item for the group; "audit/0" alone does not.
 */
export function buildTree(actors) {
  const items = new Map(actors.map((actor) => [actor.path, newItem(actor.path, actor)]));
  const roots = [];
  const members = new Map();
  for (const path of items.keys()) {
    members.set(parentPath(path), (members.get(parentPath(path)) ?? 0) + 1);
  }
  const attach = (item) => {
    let path = parentPath(item.path);
    while (path && !items.has(path) && !(members.get(path) > 1)) path = parentPath(path);
    if (!items.has(path) && hasAncestor(items, path)) {
      const group = { ...newItem(path, null), group: true };
      items.set(path, group);
      attach(group);
    }
    item.parent = items.get(path) ?? null;
    (item.parent?.children ?? roots).push(item);
  };
  [...items.values()].forEach(attach);
  sortByPath(roots).forEach((root) => complete(root, 2));
  return { items, roots };
}

const newItem = (path, actor) => ({ path, actor, children: [], parent: null });

const hasAncestor = (items, path) =>
  path !== "" && (items.has(path) || hasAncestor(items, parentPath(path)));

const sortByPath = (items) => items.sort((a, b) => compareNames(a.path, b.path));

/** Sets levels and names from the top down and the metrics of groups from the bottom up. */
function complete(item, level) {
  item.level = level;
  item.name = item.parent ? item.path.slice(item.parent.path.length + 1) : item.path;
  sortByPath(item.children).forEach((child) => complete(child, level + 1));
  if (item.group) item.actor = groupActor(item.path, item.children.map((child) => child.actor));
}

/** A group as an actor: sums of its members, and the maximum of durations and shares. */
function groupActor(path, members) {
  const sum = (name) => members.reduce((total, member) => total + (member[name] ?? 0), 0);
  const maximum = (name) => {
    const values = members.map((member) => member[name]).filter((value) => value != null);
    return values.length ? Math.max(0, ...values) : null;
  };
  const group = {
    path, kind: "group", current: null, last_failure: null, actions: [],
    status: worstStatus(members), members: members.length,
    started_at: members.map((member) => member.started_at).sort()[0],
  };
  for (const name of SUMMED) group[name] = sum(name);
  for (const name of MAXIMA) group[name] = maximum(name);
  const bounded = members.every((member) => member.mailbox_capacity);
  group.mailbox_capacity = bounded ? sum("mailbox_capacity") : null;
  return group;
}

/** All items below an item. */
export const descendants = (item) =>
  item.children.flatMap((child) => [child, ...descendants(child)]);
