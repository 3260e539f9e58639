// The last 15 minutes of each actor, one sample a second.

import { nodePath, request } from "./api.js";
import { changed } from "./state.js";

/** The number of samples. */
export const SAMPLES = 900;

const METRICS = ["messages_per_second", "mailbox_depth", "handler_p99_ms"];

/** A gap after which the node is asked for its own history, in seconds. */
const MAX_GAP = 10;

/** Appends the node's current values. After a gap, and at the start, loads the node's history. */
export function recordSamples(node, now) {
  const second = Math.floor(now / 1000);
  const elapsed = second - node.sampledAt;
  if (elapsed > MAX_GAP) loadHistory(node);
  node.sampledAt = second;
  for (const item of node.items.values()) {
    const series = seriesOf(node, item);
    for (const metric of METRICS) {
      const values = series[metric];
      const added = elapsed > MAX_GAP ? 1 : elapsed;
      for (let i = 0; i < added; i++) values.push(item.actor[metric]);
      while (values.length > SAMPLES) values.shift();
    }
  }
}

async function loadHistory(node) {
  try {
    const history = await request(nodePath(node.peer, "history"));
    const series = Object.entries(history.actors).map(([path, values]) => [path, { ...values }]);
    node.series = new Map(series);
    changed();
  } catch {
    node.sampledAt = 0; // the next poll tries again
  }
}

/** The samples of an item by metric, the newest last. */
export function seriesOf(node, item) {
  let series = node.series.get(item.path);
  if (!series) {
    const initial = (metric) => (item.group ? groupSamples(node, item, metric) : []);
    series = Object.fromEntries(METRICS.map((metric) => [metric, initial(metric)]));
    node.series.set(item.path, series);
  }
  return series;
}

/** The samples of a group: sums, or the maximum of durations. */
function groupSamples(node, item, metric) {
  const members = item.children.map((child) => seriesOf(node, child)[metric]);
  const length = Math.max(...members.map((values) => values.length));
  const combine = metric === "handler_p99_ms" ? Math.max : (a, b) => a + b;
  const combineKnown = (a, b) => (a == null ? b : b == null ? a : combine(a, b));
  return Array.from({ length }, (_, i) =>
    members.map((values) => values[i - length + values.length]).reduce(combineKnown, null));
}
