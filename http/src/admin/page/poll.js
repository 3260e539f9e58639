// Polls the state of the cluster once a second, and announces what changed.

import { ApiError, isSignedIn, messageOf, request } from "./api.js";
import { loadDetails } from "./details.js";
import { $, setText, setVisible } from "./dom.js";
import { formatClock } from "./format.js";
import { recordSamples } from "./history.js";
import { changed, state } from "./state.js";
import { buildTree } from "./tree.js";

const INTERVAL_MS = 1000;
const RETRY_INTERVAL_MS = 5000;
const MIN_PAUSE_MS = 100;

/** Statuses that are announced when an actor enters or leaves them. */
const ANNOUNCED = new Set(["stuck", "restarting", "overloaded", "stopped"]);

/** The maximum number of changes in one announcement. */
const MAX_ANNOUNCED = 4;

let timer;
let isPolling = false;
let onForbidden = () => {};

/** Calls the listener when the user is no administrator. */
export const onAccessDenied = (listener) => (onForbidden = listener);

/** All nodes with their actors. */
export const requestCluster = () => request("cluster/actors?flat=true");

/** Polls now, and then regularly while the page is visible. */
export async function poll() {
  clearTimeout(timer);
  if (isPolling || document.hidden || !isSignedIn()) return;
  isPolling = true;
  const startedAt = performance.now();
  let interval = INTERVAL_MS;
  try {
    const cluster = await requestCluster();
    if (isSignedIn()) receive(cluster);
  } catch (error) {
    if (error instanceof ApiError && error.status === 403) onForbidden();
    interval = RETRY_INTERVAL_MS;
    showConnectionLost(error);
  } finally {
    isPolling = false;
  }
  const pause = Math.max(MIN_PAUSE_MS, interval - (performance.now() - startedAt));
  if (isSignedIn()) timer = setTimeout(poll, pause);
}

export const stopPolling = () => clearTimeout(timer);

function showConnectionLost(error) {
  const time = state.updatedAt && formatClock(state.updatedAt);
  const age = time ? ` The page shows the state of ${time}.` : "";
  setText($("lost"), `Connection lost, retrying: ${messageOf(error)}.${age}`);
  setVisible($("lost"), true);
  $("app").classList.add("stale");
}

/** Takes over the state of the cluster. */
export function receive(cluster) {
  state.updatedAt = Date.now();
  setVisible($("lost"), false);
  $("app").classList.remove("stale");
  const announcements = [];
  const shown = new Set();
  for (const member of cluster) updateNode(member, shown, announcements);
  const peers = new Set(cluster.map((member) => member.peer));
  for (const peer of state.nodes.keys()) if (!peers.has(peer)) state.nodes.delete(peer);
  announce(announcements);
  changed();
  loadDetails();
}

/** Actors that nodes of one process have in common are shown once, under the first of the nodes. */
function updateNode(member, shown, announcements) {
  const known = state.nodes.get(member.peer);
  const node = known ??
    { peer: member.peer, series: new Map(), statuses: new Map(), sampledAt: 0 };
  state.nodes.set(member.peer, node);
  if (known && known.reachable !== member.reachable) {
    const status = member.reachable ? "reachable again" : "unreachable";
    announcements.push(`${node.node ?? member.peer} is ${status}`);
  }
  const actors = (member.actors ?? []).filter(({ path }) => {
    const key = `${member.process} ${path}`;
    return !shown.has(key) && shown.add(key);
  });
  Object.assign(node, { detail: null }, member, buildTree(actors));
  if (!member.reachable) return;
  recordSamples(node, state.updatedAt);
  announceStatuses(node, actors, announcements);
}

function announceStatuses(node, actors, announcements) {
  for (const { path, status } of actors) {
    const before = node.statuses.get(path);
    node.statuses.set(path, status);
    if (!before || before === status) continue;
    const text = `${path} on ${node.node} is ${status}`;
    if (ANNOUNCED.has(status)) announcements.push(text);
    else if (ANNOUNCED.has(before)) announcements.push(`${text} again`);
  }
}

/** Tells screen readers. */
function announce(announcements) {
  if (!announcements.length) return;
  const more = announcements.length - MAX_ANNOUNCED;
  const text = announcements.slice(0, MAX_ANNOUNCED).join(", ");
  setText($("announcer"), `${text}${more > 0 ? `, and ${more} more` : ""}.`);
}
