// The sections of the details panel: current work, metrics, messages, failures and state.

import {
  $, create, createTime, setAttribute, setChildren, setCopyText, setText, setTime, setVisible,
} from "./dom.js";
import {
  formatCount, formatMs, formatPercent, formatRate, formatRelative, plural,
} from "./format.js";
import { drawHistogram } from "./histogram.js";
import { setCell } from "./rows.js";
import { healthOf } from "./state.js";

/** The length in characters from which JSON is not coloured. */
const MAX_COLORED = 20000;

/** What the actor does now, and its last failure. */
export function renderCurrent(actor) {
  const { current, status, last_failure: failure } = actor;
  setAttribute($("now"), "data-health", healthOf(status));
  setText($("now-line"), currentText(actor));
  setVisible($("now-trace"), Boolean(current?.trace_id));
  if (current?.trace_id) setCopyText($("now-trace").lastElementChild, current.trace_id);
  setVisible($("now-failure"), Boolean(failure));
  if (!failure) return;
  setChildren($("now-failure"), failure, () => [
    create("span", "quiet", "Last failure "), createTime(failure.at),
    create("span", "quiet", ": "), failure.reason,
  ]);
  setTime($("now-failure").querySelector("time"), failure.at);
}

function currentText(actor) {
  const { current, status, mailbox_depth: depth } = actor;
  const queued = depth ? `${plural(depth, "message")} in the mailbox` : "the mailbox is empty";
  if (current) return `Handling ${current.message} for ${formatMs(current.for_ms)}; ${queued}.`;
  const texts = {
    restarting: actor.next_try_at
      ? `Restarting; the next attempt is ${formatRelative(actor.next_try_at)}.`
      : "Restarting.",
    paused: `Paused: it handles no messages until it is resumed; ${queued}.`,
    draining: `Draining: it handles the messages in its mailbox and then stops; ${queued}.`,
    stopped: "Stopped: it handles no messages.",
    stuck: `Stuck: its message has not finished; ${queued}.`,
    starting: `Starting; ${queued}.`,
  };
  const members = actor.kind === "group" && plural(actor.members, "member");
  return texts[status] ?? `${members || "Waiting for messages"}; ${queued}.`;
}

/** Durations, rates and counters. */
export function renderMetrics(actor) {
  for (const row of document.querySelectorAll("tr[data-times]")) {
    ["p50", "p99", "max"].forEach((quantile, i) => {
      setText(row.cells[i + 1], formatMs(actor[`${row.dataset.times}_${quantile}_ms`]));
    });
  }
  const { mailbox_depth: depth, mailbox_capacity: capacity } = actor;
  const limit = capacity ? ` of ${formatCount(capacity)}` : "";
  const counter = (name, value, isAlarming) => [name, formatCount(value), isAlarming && value];
  const metrics = [
    ["Messages/s", formatRate(actor.messages_per_second)],
    ["Busy", formatPercent(actor.busy_share)],
    ["Mailbox", formatCount(depth) + limit],
    counter("Mailbox maximum", actor.mailbox_high_water),
    counter("Handled", actor.handled),
    counter("Restarts", actor.restarts, true),
    counter("Rejected", actor.rejected, true),
    counter("Expired", actor.expired, true),
    counter("Lost", actor.lost, true),
  ];
  const list = $("figures");
  if (!list.children.length) {
    const entry = ([name]) => create("div", "", create("dt", "", name), create("dd"));
    list.append(...metrics.map(entry));
  }
  metrics.forEach(([, value, isAlarming], i) => {
    const isZero = value === "0" || value === "0 %";
    setCell(list.children[i].lastElementChild, value, isZero, Boolean(isAlarming));
  });
}

/** What only the details contain: histograms, messages by type, failures and state. */
export function renderRecords(actor, details) {
  for (const canvas of document.querySelectorAll(".histogram")) {
    const of = canvas.dataset.times;
    const buckets = details[`${of}_histogram`] ?? [];
    drawHistogram(canvas, buckets, actor[`${of}_p50_ms`], actor[`${of}_p99_ms`]);
  }
  renderMessages(Object.entries(details.messages).sort((a, b) => b[1] - a[1]));
  renderFailures(details.failures ?? []);
  renderState(details.state, details.state_at);
}

function renderMessages(messages) {
  setChildren($("messages"), messages, () => {
    if (!messages.length) return [create("li", "quiet", "No messages handled yet.")];
    const maximum = Math.max(1, ...messages.map(([, count]) => count));
    return messages.map(([name, count]) => {
      const bar = create("i", "share");
      bar.style.transform = `scaleX(${count / maximum})`;
      return create("li", "", bar, create("span", "", name), create("b", "", formatCount(count)));
    });
  });
}

function renderFailures(failures) {
  setChildren($("failures"), failures, () => {
    if (!failures.length) return [create("li", "quiet", "No failures since the process started.")];
    return failures.map(failureEntry);
  });
  $("failures").querySelectorAll("time").forEach((time) => setTime(time, time.dateTime));
}

function failureEntry({ at, reason, trace_id: traceId }) {
  const entry = create("li", "", createTime(at), create("span", "reason", reason));
  if (traceId) {
    const button = setCopyText(create("button", "copy"), traceId);
    button.title = "Copy the trace id";
    entry.append(button);
  }
  return entry;
}

function renderState(value, at) {
  const isMissing = value == null;
  setVisible($("state-at"), !isMissing && Boolean(at));
  if (at) setTime($("state-at"), at);
  $("state").classList.toggle("quiet", isMissing);
  setChildren($("state"), value ?? null, () =>
    isMissing ? ["This actor does not show its state."] : colored(JSON.stringify(value, null, 2)));
}

/** JSON with its keys, strings and numbers in spans. */
function colored(json) {
  if (json.length > MAX_COLORED) return [json];
  const token = /("(?:[^"\\]|\\.)*"(?:\s*:)?|\b(?:true|false|null)\b|-?\d[\d.eE+-]*)/;
  return json.split(token).map((part, i) => {
    if (i % 2 === 0) return part;
    const isString = part[0] === '"';
    const className = !isString ? "number" : part.endsWith(":") ? "key" : "string";
    return create("span", className, part);
  });
}
