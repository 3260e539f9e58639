// Numbers, durations and times as text.

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const oneDecimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** Compares strings; "orders/10" comes after "orders/2". */
export const compareNames = new Intl.Collator("en", { numeric: true }).compare;

export const formatCount = (n) => (n == null ? "–" : integer.format(n));
export const formatPercent = (share) => (share == null ? "–" : `${Math.round(share * 100)} %`);

export function formatRate(perSecond) {
  if (perSecond == null) return "–";
  if (perSecond > 0 && perSecond < 0.05) return "< 0.1";
  return (perSecond < 100 ? oneDecimal : integer).format(perSecond);
}

/** A measured duration: "0.42 ms", "12 ms", "2.3 s", "3 min 20 s". */
export function formatMs(ms) {
  if (ms == null) return "–";
  if (ms < 0.995) return `${ms === 0 ? "0" : ms < 0.01 ? "< 0.01" : ms.toFixed(2)} ms`;
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  return formatSeconds(ms / 1000);
}

/** A long duration in its two largest units: "3 min 20 s", "2 d 4 h". */
export function formatSeconds(seconds) {
  const s = Math.round(seconds);
  const join = (large, largeUnit, small, smallUnit) =>
    `${large} ${largeUnit}${small ? ` ${small} ${smallUnit}` : ""}`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return join(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86400) return join(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return join(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

/** The time since or until a timestamp, in its largest unit: "3 s". */
export function formatAge(timestamp) {
  const seconds = Math.abs(Date.now() - Date.parse(timestamp)) / 1000;
  return formatSeconds(seconds).split(" ").slice(0, 2).join(" ");
}

/** A timestamp relative to now: "3 s ago", "in 4 s". */
export function formatRelative(timestamp) {
  const seconds = (Date.now() - Date.parse(timestamp)) / 1000;
  if (Math.abs(seconds) < 0.5) return "now";
  return seconds < 0 ? `in ${formatAge(timestamp)}` : `${formatAge(timestamp)} ago`;
}

export const formatClock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

export const plural = (n, one, many = `${one}s`) => `${formatCount(n)} ${n === 1 ? one : many}`;

export const capitalized = (text) => text[0].toUpperCase() + text.slice(1);

/** The text with a capital letter and a full stop. */
export const sentence = (text) => capitalized(text) + (/[.?]$/.test(text) ? "" : ".");
