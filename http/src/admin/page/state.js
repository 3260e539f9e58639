// The state of the page, and what an actor's status means.

/** Statuses from the worst to the best. */
const STATUSES = [
  "stuck", "stopped", "restarting", "overloaded", "draining", "paused", "starting", "busy",
  "running",
];

const HEALTH = {
  stuck: "bad", stopped: "bad", restarting: "warn", overloaded: "warn", draining: "held",
  paused: "held",
};

export const state = {
  /** "tree", or the name of the metric that the flat list is sorted by. */
  order: "tree",
  /** The words of the filter, in lower case. */
  filter: [],
  /** The actor whose details are open: { peer, path }. */
  selected: null,
  /** The last response with that actor's details. */
  details: null,
  /** When the cluster last responded, in milliseconds since 1970. */
  updatedAt: 0,
  /** Peer → node, with its actors and their history. */
  nodes: new Map(),
  /** The keys of the collapsed branches. */
  collapsed: new Set(),
};

const listeners = [];

/** Calls the listener after every change of the state. */
export const onChange = (listener) => listeners.push(listener);

/** Tells the listeners that the state changed. */
export const changed = () => listeners.forEach((listener) => listener());

/** Identifies an actor in the cluster; the empty path is the node itself. */
export const keyOf = (peer, path) => `${peer} ${path}`;

export const parentPath = (path) => path.slice(0, Math.max(0, path.lastIndexOf("/")));

export const healthOf = (status) => HEALTH[status] ?? "fine";

const rank = (actor) => (STATUSES.indexOf(actor.status) + STATUSES.length) % STATUSES.length;

export const worstStatus = (actors) => STATUSES[Math.min(...actors.map(rank))];

/** The tree item of the actor whose details are open. */
export const selectedItem = () =>
  state.selected && state.nodes.get(state.selected.peer)?.items.get(state.selected.path);
