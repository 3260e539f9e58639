// The operators' page: the actors of the whole cluster, live. The node that
// serves it is asked once a second for all nodes, and only what has changed
// since is written to the page. Text from the server goes in as text only.

const SAMPLES = 900; // 15 minutes, one a second
const BUCKET = 15; // seconds in one point of a small chart
const SERIES = ["messages_per_second", "mailbox_depth", "handler_p99_ms"];
const WORST_FIRST = ["stuck", "stopped", "restarting", "overloaded", "draining", "paused", "starting", "busy", "running"];
const HEALTH = { stuck: "bad", stopped: "bad", restarting: "warn", overloaded: "warn", draining: "held", paused: "held" };
const WORTH_SAYING = new Set(["stuck", "restarting", "overloaded", "stopped"]);

const $ = (id) => document.getElementById(id);
const healthOf = (status) => HEALTH[status] ?? "fine";
const keyOf = (peer, path) => `${peer} ${path}`;
const byName = new Intl.Collator("en", { numeric: true }).compare;

let token = sessionStorage.getItem("token");
let order = "tree";
let words = []; // of the filter
let selected = null; // { peer, path } of the open details
let detail = null; // what the server last said about it
let rover = null; // the key of the row that the keyboard is on
let lastGood = 0; // when the cluster last answered
const nodes = new Map(); // peer → what is known of the node
const rows = new Map(); // key → table row
const bodies = new Map(); // peer → table section, and "flat" for the flat list
const collapsed = new Set(); // keys

/* ---- words and numbers ------------------------------------------------ */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

const count = (n) => (n == null ? "–" : whole.format(n));
const rate = (n) => (n == null ? "–" : n > 0 && n < 0.05 ? "< 0.1" : (n < 100 ? tenths : whole).format(n));
const percent = (share) => (share == null ? "–" : `${Math.round(share * 100)} %`);

/** A time measured: "0.42 ms", "12 ms", "2.3 s", "3 min 20 s". */
function took(ms) {
  if (ms == null) return "–";
  if (ms < 0.995) return `${ms === 0 ? "0" : ms < 0.01 ? "< 0.01" : ms.toFixed(2)} ms`;
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  return lasted(ms / 1000);
}

function lasted(seconds) {
  const s = Math.round(seconds);
  const two = (big, name, small, rest) => (small ? `${big} ${name} ${small} ${rest}` : `${big} ${name}`);
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

/** "3 s ago", "in 4 s"; of a long time only the biggest part. */
function relative(when, plain) {
  const seconds = (Date.now() - Date.parse(when)) / 1000;
  const size = lasted(Math.abs(seconds)).split(" ").slice(0, 2).join(" ");
  if (plain) return size;
  return Math.abs(seconds) < 0.5 ? "now" : seconds < 0 ? `in ${size}` : `${size} ago`;
}

const clock = (when) => new Date(when).toLocaleTimeString([], { hour12: false });
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.?]$/.test(text) ? "" : ".");

/* ---- writing to the page ---------------------------------------------- */

function say(element, text) {
  if (element.firstChild?.data !== text) element.textContent = text;
}

function mark(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

function show(element, yes) {
  if (element.hidden === yes) element.hidden = !yes;
}

function el(tag, name, ...inside) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...inside);
  return element;
}

function setTime(element, when) {
  if (element.dateTime !== when) {
    element.dateTime = when;
    element.title = new Date(when).toLocaleString();
  }
  say(element, (element.dataset.prefix ?? "") + relative(when, "plain" in element.dataset));
  return element;
}

const time = (when) => setTime(el("time", "quiet"), when);

/** Builds the children anew only when the data behind them differ, and never under a selection being copied. */
function fill(element, data, build) {
  const print = JSON.stringify(data) ?? "";
  if (element.print === print) return;
  const selection = getSelection();
  if (element.print && !selection.isCollapsed && element.contains(selection.anchorNode)) return;
  element.print = print;
  element.replaceChildren(...build(data));
}

function copyButton(button, text) {
  say(button, text);
  button.dataset.copy = text;
  return button;
}

let toastTimer;
function toast(text, bad = false) {
  const box = $("toast");
  say(box, text);
  box.className = bad ? "shown bad" : "shown";
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (box.className = ""), bad ? 10000 : 5000);
}

/* ---- asking the server ------------------------------------------------ */

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, body) {
  const headers = { accept: "application/json" };
  const used = token;
  if (used) headers.authorization = `Bearer ${used}`;
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(`/admin/${path}`, {
    method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(10000),
  });
  if (answer.ok) return answer.json().catch(() => ({}));
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401 && used && used === token) leave("Your session has ended. Sign in again.");
  throw new Refused(answer.status, problem.detail ?? problem.title ?? `the node answered ${answer.status}`);
}

const inPath = (text) => text.split("/").map(encodeURIComponent).join("/").replaceAll("%3A", ":");
const nodePath = (peer, rest) => `cluster/${inPath(peer)}/${rest}`;
const actorPath = ({ peer, path }, action = "") => nodePath(peer, `actors/${inPath(path)}${action && `/${action}`}`);
const why = (error) => (error instanceof Refused ? error.message : "this node cannot be reached");

/* ---- signing in and out ----------------------------------------------- */

function leave(text) {
  token = null;
  sessionStorage.removeItem("token");
  clearTimeout(pollTimer);
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  closeDetails();
  nodes.clear();
  rows.clear();
  bodies.forEach((body) => body.remove());
  bodies.clear();
  show($("app"), false);
  show($("sign-in-view"), true);
  document.title = "Actors";
  say($("sign-in-error"), text);
  $("password").value = "";
  ($("username").value ? $("password") : $("username")).focus();
}

async function signIn(event) {
  event.preventDefault();
  const button = $("sign-in");
  button.disabled = true;
  say($("sign-in-error"), "");
  try {
    token = null;
    const answer = await ask("sign-in", { username: $("username").value.trim(), password: $("password").value });
    token = answer.access_token;
    const cluster = await ask("cluster/actors?flat=true");
    sessionStorage.setItem("token", token);
    enter();
    receive(cluster);
  } catch (error) {
    leave(error.status === 403 ? "This account is not an administrator." : sentence(why(error)));
  } finally {
    button.disabled = false;
  }
}

function enter() {
  show($("sign-in-view"), false);
  show($("app"), true);
  $("password").value = "";
  const [peer, path] = decodeURIComponent(location.hash.slice(1)).split(" ");
  if (path) openDetails({ peer, path });
  poll();
}

/* ---- the poll --------------------------------------------------------- */

let pollTimer;
let polling = false;

async function poll() {
  clearTimeout(pollTimer);
  if (polling || document.hidden || !token) return;
  polling = true;
  const began = performance.now();
  let wait = 1000;
  try {
    const cluster = await ask("cluster/actors?flat=true");
    if (token) receive(cluster);
  } catch (error) {
    if (error.status === 403) leave("This account is not an administrator.");
    wait = 5000;
    lose(error);
  } finally {
    polling = false;
  }
  if (token) pollTimer = setTimeout(poll, Math.max(100, wait - (performance.now() - began)));
}

function lose(error) {
  const last = lastGood ? ` What you see is from ${clock(lastGood)}.` : "";
  say($("lost"), `Connection lost, trying again: ${why(error)}.${last}`);
  show($("lost"), true);
  $("app").classList.add("stale");
}

function receive(cluster) {
  const now = Date.now();
  lastGood = now;
  show($("lost"), false);
  $("app").classList.remove("stale");
  const news = [];
  const shown = new Set(); // what nodes of one process share is shown under the first of them
  for (const entry of cluster) {
    const known = nodes.get(entry.peer);
    const node = known ?? { peer: entry.peer, series: new Map(), statuses: new Map(), seen: 0 };
    nodes.set(entry.peer, node);
    if (known && known.reachable !== entry.reachable) news.push(`${node.node ?? entry.peer} is ${entry.reachable ? "back" : "not reachable"}`);
    Object.assign(node, { detail: null }, entry);
    const own = (entry.actors ?? []).filter((actor) => {
      const once = `${entry.process} ${actor.path}`;
      return !shown.has(once) && shown.add(once);
    });
    Object.assign(node, grow(own));
    if (!entry.reachable) continue;
    keepHistory(node, now);
    notice(node, own, news);
  }
  const peers = new Set(cluster.map((entry) => entry.peer));
  for (const peer of nodes.keys()) if (!peers.has(peer)) nodes.delete(peer);
  if (news.length) say($("announcer"), `${news.slice(0, 4).join(", ")}${news.length > 4 ? `, and ${news.length - 4} more` : ""}.`);
  render();
  refreshDetails();
}

function notice(node, actors, news) {
  for (const { path, status } of actors) {
    const before = node.statuses.get(path);
    if (before && before !== status) {
      if (WORTH_SAYING.has(status)) news.push(`${path} on ${node.node} is ${status}`);
      else if (WORTH_SAYING.has(before)) news.push(`${path} on ${node.node} is ${status} again`);
    }
    node.statuses.set(path, status);
  }
}

/* ---- the tree --------------------------------------------------------- */

/** Makes the tree from the paths. "orders/0" … "orders/3" without an actor "orders" get a grouping item; "audit/0" alone none. */
function grow(actors) {
  const items = new Map(actors.map((actor) => [actor.path, { path: actor.path, actor, children: [], parent: null }]));
  const roots = [];
  const above = (path) => path.slice(0, Math.max(0, path.lastIndexOf("/")));
  const hasActorAbove = (path) => path !== "" && (items.has(path) || hasActorAbove(above(path)));
  const members = new Map();
  for (const path of items.keys()) members.set(above(path), (members.get(above(path)) ?? 0) + 1);
  const attach = (item) => {
    let path = above(item.path);
    while (path && !items.has(path) && !(members.get(path) > 1)) path = above(path);
    if (!items.has(path) && hasActorAbove(path)) {
      const group = { path, actor: null, group: true, children: [], parent: null };
      items.set(path, group);
      attach(group);
    }
    item.parent = items.get(path) ?? null;
    (item.parent?.children ?? roots).push(item);
  };
  [...items.values()].forEach(attach);
  const finish = (item, level) => {
    item.level = level;
    item.name = item.parent ? item.path.slice(item.parent.path.length + 1) : item.path;
    item.children.sort((a, b) => byName(a.path, b.path)).forEach((child) => finish(child, level + 1));
    if (item.group) item.actor = total(item.path, item.children.map((child) => child.actor));
  };
  roots.sort((a, b) => byName(a.path, b.path)).forEach((root) => finish(root, 2));
  return { items, roots };
}

/** What a grouping item shows of its members: sums, and for times and shares the worst. */
function total(path, members) {
  const sum = (name) => members.reduce((all, member) => all + (member[name] ?? 0), 0);
  const worst = (name) => members.reduce((max, member) => (member[name] == null ? max : Math.max(max ?? 0, member[name])), null);
  const group = { path, kind: "group", current: null, last_failure: null, actions: [], status: worstStatus(members), members: members.length };
  for (const name of ["messages_per_second", "mailbox_depth", "restarts", "handled", "rejected", "expired", "lost"]) group[name] = sum(name);
  for (const name of ["mailbox_high_water", "busy_share"]) group[name] = worst(name);
  for (const of of ["mailbox", "handler"]) for (const what of ["p50", "p99", "max"]) group[`${of}_${what}_ms`] = worst(`${of}_${what}_ms`);
  group.mailbox_capacity = members.every((member) => member.mailbox_capacity) ? sum("mailbox_capacity") : null;
  group.started_at = members.map((member) => member.started_at).sort()[0];
  return group;
}

const worstStatus = (actors) => WORST_FIRST[Math.min(...actors.map((actor) => (WORST_FIRST.indexOf(actor.status) + 9) % 9))];
const inside = (item) => item.children.flatMap((child) => [child, ...inside(child)]);

/* ---- history ---------------------------------------------------------- */

/** Adds this poll to what is kept; after a gap, and at the start, the node is asked for its own history. */
function keepHistory(node, now) {
  const second = Math.floor(now / 1000);
  const passed = second - node.seen;
  if (passed > 10) loadHistory(node);
  node.seen = second;
  for (const item of node.items.values()) {
    const series = seriesOf(node, item);
    for (const name of SERIES) {
      const values = series[name];
      for (let i = 0; i < (passed > 10 ? 1 : passed); i++) values.push(item.actor[name]);
      while (values.length > SAMPLES) values.shift();
    }
  }
}

async function loadHistory(node) {
  try {
    const history = await ask(nodePath(node.peer, "history"));
    node.series = new Map(Object.entries(history.actors).map(([path, series]) => [path, { ...series }]));
    render();
  } catch {
    node.seen = 0; // so that the next poll tries again
  }
}

function seriesOf(node, item) {
  let series = node.series.get(item.path);
  if (!series) {
    series = Object.fromEntries(SERIES.map((name) => [name, item.group ? together(node, item, name) : []]));
    node.series.set(item.path, series);
  }
  return series;
}

function together(node, item, name) {
  const members = item.children.map((child) => seriesOf(node, child)[name]);
  const length = Math.max(...members.map((values) => values.length));
  const join = name === "handler_p99_ms" ? Math.max : (a, b) => a + b;
  return Array.from({ length }, (_, i) =>
    members.map((values) => values[i - length + values.length]).reduce((a, b) => (a == null ? b : b == null ? a : join(a, b)), null));
}

/* ---- drawing ---------------------------------------------------------- */

const ink = {};
function mixInk() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["line", "area", "grid", "quiet", "text", "bar", "warn"]) ink[name] = style.getPropertyValue(`--ink-${name}`).trim();
}

function brush(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  return g;
}

/** The highest value of each 15 s. The borders stay at whole quarter minutes, so that the line does not tremble. */
function squeeze(values, end) {
  const points = new Array(SAMPLES / BUCKET).fill(null);
  const last = Math.floor(end / BUCKET);
  for (let i = 0; i < values.length; i++) {
    const at = points.length - 1 - last + Math.floor((end - values.length + 1 + i) / BUCKET);
    if (at >= 0 && values[i] != null && !(points[at] > values[i])) points[at] = values[i];
  }
  return points;
}

function trace(g, points, x, y, floor) {
  g.lineWidth = 1.25;
  g.lineJoin = "round";
  g.strokeStyle = ink.line;
  g.fillStyle = ink.area;
  for (let i = 0; i < points.length; i++) {
    if (points[i] == null) continue;
    const from = i;
    g.beginPath();
    for (; i < points.length && points[i] != null; i++) g.lineTo(x(i), y(points[i]));
    if (i - from === 1) g.lineTo(x(from) + 1, y(points[from]));
    g.stroke();
    g.lineTo(x(i - 1), floor);
    g.lineTo(x(from), floor);
    g.fill();
  }
}

function spark(canvas, values, end, least) {
  const width = 72, height = 18;
  const now = performance.now();
  if (canvas.values === values && now - canvas.drawn < 4500) return; // a point is 15 s; drawing each second costs and shows nothing
  canvas.values = values;
  canvas.drawn = now;
  const points = squeeze(values, end);
  const print = points.join();
  if (canvas.print === print) return;
  canvas.print = print;
  const g = brush(canvas, width, height);
  const top = Math.max(least, ...points);
  trace(g, points, (i) => 1 + (i * (width - 2)) / (points.length - 1), (v) => height - 1 - (v / top) * (height - 3), height);
}

function drawChart(figure, values) {
  const canvas = figure.querySelector("canvas");
  const name = figure.dataset.series;
  const print = name === "handler_p99_ms" ? took : rate;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const at = figure.hover == null ? -1 : Math.round(figure.hover * (SAMPLES - 1));
  const known = values.filter((v) => v != null);
  const highest = known.length ? print(Math.max(...known)) : "–";
  const points = new Array(SAMPLES - values.length).fill(null).concat(values);
  say(figure.querySelector("output"), at >= 0 ? `${print(points[at])} at ${clock(lastGood - (SAMPLES - 1 - at) * 1000)}` : known.length ? `${points.at(-1) == null ? "" : `${print(points.at(-1))}, `}highest ${highest}` : "no messages");
  mark(canvas, "aria-label", `Last 15 minutes, highest ${highest}`);
  const now = performance.now();
  const still = canvas.values === values && canvas.across === width && now - canvas.drawn < 1900; // a second is less than half a pixel
  if (!width || (still && figure.hover === canvas.hover)) return;
  Object.assign(canvas, { values, across: width, drawn: now, hover: figure.hover });
  const g = brush(canvas, width, height);
  const top = Math.max(name === "handler_p99_ms" ? 0.01 : 1, ...values) * 1.08;
  const x = (i) => (i * width) / (SAMPLES - 1);
  const y = (v) => height - 1 - (v / top) * (height - 4);
  g.fillStyle = ink.grid;
  for (let minute = 0; minute <= 15; minute += 5) g.fillRect(Math.min(width - 1, (minute * width) / 15), 0, 1, height);
  g.fillRect(0, height - 1, width, 1);
  trace(g, points, x, y, height);
  if (at >= 0) {
    g.fillStyle = ink.quiet;
    g.fillRect(x(at), 0, 1, height);
    if (points[at] != null) {
      g.fillStyle = ink.text;
      g.beginPath();
      g.arc(x(at), y(points[at]), 2.5, 0, 7);
      g.fill();
    }
  }
}

function drawHistogram(canvas, buckets, p50, p99) {
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const print = JSON.stringify([buckets, p50, p99, width]);
  if (!width || canvas.print === print) return;
  canvas.print = print;
  const g = brush(canvas, width, height);
  const floor = height - 18, roof = 18;
  g.font = `11px ${getComputedStyle(canvas).fontFamily}`;
  g.textBaseline = "middle";
  const bounds = buckets.map(({ up_to_ms: to }, i) => to ?? buckets[i - 1].up_to_ms * 4);
  const used = buckets.flatMap(({ count: n }, i) => (n > 0 ? [i] : []));
  mark(canvas, "aria-label", used.length ? `Half within ${took(p50)}, 99 of 100 within ${took(p99)}` : "Nothing handled yet");
  if (!used.length) {
    g.fillStyle = ink.quiet;
    g.fillText("Nothing handled yet.", 0, height / 2);
    return;
  }
  const first = Math.max(0, used[0] - 1), last = Math.min(buckets.length - 1, used.at(-1) + 1);
  const low = Math.log(first > 0 ? bounds[first - 1] : bounds[0] / 2), high = Math.log(bounds[last]);
  const x = (ms) => Math.min(width, Math.max(0, ((Math.log(ms) - low) / (high - low)) * width));
  const most = Math.max(...buckets.map((bucket) => bucket.count));
  g.fillStyle = ink.bar;
  for (let i = first; i <= last; i++) {
    const left = i > first ? x(bounds[i - 1]) : 0;
    const tall = buckets[i].count ? Math.max(1.5, (buckets[i].count / most) * (floor - roof)) : 0;
    g.fillRect(left + 0.5, floor - tall, Math.max(1, x(bounds[i]) - left - 1), tall);
  }
  g.fillStyle = ink.grid;
  g.fillRect(0, floor, width, 1);
  g.fillStyle = ink.quiet;
  g.textAlign = "center";
  for (let power = Math.ceil(low / Math.LN10); power <= high / Math.LN10; power++) {
    const at = x(10 ** power);
    if (at > 18 && at < width - 18) g.fillText(took(10 ** power).replace(".00", "").replace(".0", "").replace("0 ms", "0 ms"), at, height - 7);
  }
  const line = (ms, text, color, align) => {
    if (ms == null) return;
    const at = x(Math.max(ms, Number.MIN_VALUE));
    g.fillStyle = color;
    g.fillRect(at, roof - 2, 1, floor - roof + 2);
    g.textAlign = align;
    const wide = g.measureText(text).width;
    g.fillText(text, align === "right" ? Math.max(at, wide) : Math.min(at, width - wide), 7);
  };
  const close = p50 != null && p99 != null && x(p99) - x(p50) < 60;
  line(p50, `p50 ${took(p50)}`, ink.text, close ? "right" : "left");
  line(p99, `p99 ${took(p99)}`, ink.warn, "left");
}

/* ---- rows ------------------------------------------------------------- */

const onScreen = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    target.onScreen = isIntersecting;
    if (isIntersecting) drawSparks(target);
  }
}, { rootMargin: "120px" });

function makeRow(template, key, peer) {
  const row = $(template).content.firstElementChild.cloneNode(true);
  row.dataset.key = key;
  row.dataset.peer = peer;
  row.parts = Object.fromEntries([...row.querySelectorAll("[class]")].map((part) => [part.className, part]));
  rows.set(key, row);
  return row;
}

function actorRow(node, item) {
  const key = keyOf(node.peer, item.path);
  let row = rows.get(key);
  if (!row) {
    row = makeRow("actor-row", key, node.peer);
    row.dataset.path = item.path;
    const { name, rate: speed, mailbox } = row.parts;
    Object.assign(row.parts, {
      nameCell: name.querySelector(".cell"), rateText: speed.querySelector(".number"), rateSpark: speed.querySelector("canvas"),
      depthText: mailbox.querySelector(".number"), depthSpark: mailbox.querySelector("canvas"), full: mailbox.querySelector(".bar > i"),
    });
    onScreen.observe(row);
  }
  row.node = node;
  row.item = item;
  paintRow(row);
  return row;
}

function cell(element, text, zero, hot = false) {
  say(element, text);
  const dress = zero ? "zero" : hot ? "hot" : "";
  if (element.dress === dress) return;
  element.classList.remove("zero", "hot");
  if (dress) element.classList.add(dress);
  element.dress = dress;
}

function paintRow(row) {
  const { item, node, parts } = row;
  const actor = item.actor;
  const flat = order !== "tree";
  const open = !collapsed.has(row.dataset.key);
  const branch = !flat && item.children.length > 0;
  const level = flat ? 1 : item.level;
  if (row.level !== level) {
    row.level = level;
    mark(row, "aria-level", level);
    parts.nameCell.style.setProperty("--level", flat ? 0 : level - 2);
  }
  mark(row, "aria-expanded", branch ? open : null);
  mark(row, "data-status", actor.status);
  mark(row, "data-health", healthOf(actor.status));
  mark(row, "data-kind", actor.kind);
  mark(row, "aria-selected", selected?.peer === node.peer && selected.path === item.path);
  const cut = Math.max(0, item.path.search(/[^/]+(\/\d+)?$/)); // "orders/0" says more than "0"
  say(parts.prefix, flat ? item.path.slice(0, cut) : "");
  say(parts.leaf, flat ? item.path.slice(cut) : item.name);
  mark(parts.label, "title", item.path);
  say(parts.tag, flat ? `${node.node} ${node.peer.replace(/^.*:/, ":")}` : branch && !open ? hiddenInside(item) : item.group ? `× ${item.children.length}` : "");
  say(parts.kind, actor.kind);
  say(parts.state, actor.status);
  say(parts.doing, doing(actor));
  cell(parts.rateText, rate(actor.messages_per_second), !actor.messages_per_second);
  const depth = actor.mailbox_depth, capacity = actor.mailbox_capacity;
  cell(parts.depthText, capacity ? `${count(depth)} / ${count(capacity)}` : count(depth), !depth, capacity && depth / capacity >= 0.8);
  const full = capacity ? Math.min(1, depth / capacity).toFixed(2) : "0";
  if (row.full !== full) {
    row.full = full;
    parts.full.style.transform = `scaleX(${full})`;
  }
  mark(row, "data-unbounded", capacity ? null : "");
  cell(parts.p99, took(actor.handler_p99_ms), !actor.handler_p99_ms, actor.handler_p99_ms >= 1000);
  cell(parts.wait, took(actor.mailbox_p99_ms), !actor.mailbox_p99_ms, actor.mailbox_p99_ms >= 1000);
  cell(parts.busy, percent(actor.busy_share), !(actor.busy_share >= 0.005), actor.busy_share >= 0.9);
  cell(parts.restarts, count(actor.restarts), !actor.restarts);
  if (row.onScreen && !row.hidden) drawSparks(row);
}

/** What a short word next to the status tells: the message in hand, or the wait for the next try. */
function doing(actor) {
  if (actor.next_try_at) return relative(actor.next_try_at);
  if (!actor.current || (healthOf(actor.status) === "fine" && actor.current.for_ms < 1000)) return "";
  return `${actor.current.message} ${took(actor.current.for_ms)}`;
}

function hiddenInside(item) {
  const hidden = inside(item).filter((one) => !one.group).map((one) => one.actor);
  const worst = worstStatus(hidden);
  const ill = hidden.filter((actor) => actor.status === worst).length;
  return healthOf(worst) === "fine" || item.group ? `${hidden.length} inside` : `${hidden.length} inside, ${ill} ${worst}`;
}

function drawSparks(row) {
  if (!row.item) return;
  const { node, item, parts } = row;
  const series = seriesOf(node, item);
  spark(parts.rateSpark, series.messages_per_second, node.seen, 1);
  spark(parts.depthSpark, series.mailbox_depth, node.seen, 10); // one message more or less is no news
}

function nodeRow(node) {
  const key = keyOf(node.peer, "");
  const row = rows.get(key) ?? makeRow("node-row", key, node.peer);
  row.node = node;
  mark(row, "data-reachable", node.reachable);
  mark(row, "aria-expanded", node.reachable && order === "tree" ? !collapsed.has(key) : null);
  say(row.querySelector("strong"), node.node ?? "unknown node");
  say(row.parts.peer, node.peer);
  show(row.parts["node-buttons"], node.reachable);
  const facts = node.reachable ? nodeFacts(node) : [["not reachable", "bad"], [node.detail ?? "does not answer", ""], ...(node.seen ? [[`last seen ${clock(node.seen * 1000)}`, ""]] : [])];
  fill(row.parts.facts, facts, () => facts.map(([text, look, title]) => {
    const fact = el("span", look, text);
    if (title) fact.title = title;
    return fact;
  }));
  return row;
}

function nodeFacts(node) {
  const facts = [];
  if (node.version) facts.push([`v${node.version}`, ""]);
  if (node.started_at) facts.push([`up ${relative(node.started_at, true)}`, "", `since ${new Date(node.started_at).toLocaleString()}`]);
  if (node.broker != null) facts.push(node.broker ? ["broker up", "good"] : ["broker down", "bad"]);
  if (node.outbox) {
    const { length, age_seconds: age } = node.outbox;
    facts.push([length ? `outbox ${count(length)}, oldest ${took(age * 1000)}` : "outbox empty", length && age >= 10 ? "warn" : ""]);
  }
  if (node.dead_letters != null) facts.push([plural(node.dead_letters, "dead letter"), node.dead_letters ? "warn" : ""]);
  return facts;
}

/* ---- the whole list --------------------------------------------------- */

function matches(node, item) {
  if (!words.length) return true;
  const text = `${node.node} ${node.peer} ${item.path} ${item.actor.status} ${item.actor.kind}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

function render() {
  const focused = document.activeElement;
  const everything = [...nodes.values()].flatMap((node) => [...node.items.values()].map((item) => ({ node, item })));
  let found = 0;
  for (const { node, item } of everything) {
    item.found = matches(node, item) && (order === "tree" || !item.group);
    if (item.found) found++;
  }
  const wanted = new Set();
  for (const node of nodes.values()) {
    const list = [nodeRow(node)];
    if (order === "tree") for (const root of node.roots) addBranch(node, root, !collapsed.has(keyOf(node.peer, "")), list);
    list.forEach((row) => wanted.add(row));
    place(node.peer, list);
  }
  const flat = order === "tree" ? [] : flatList(everything);
  flat.forEach((row) => wanted.add(row));
  place("flat", flat);
  for (const [key, row] of rows) if (!wanted.has(row)) forget(key, row);
  for (const [peer, body] of bodies) if (peer !== "flat" && !nodes.has(peer)) bodies.delete(peer) && body.remove();
  mark($("tree"), "data-order", order);
  say($("empty").firstElementChild, words.length ? `No actor matches “${$("filter").value.trim()}”.` : "No node has answered yet.");
  show($("empty").lastElementChild, words.length > 0);
  show($("empty"), found === 0 && (words.length > 0 || nodes.size === 0));
  rove(rows.get(rover) ?? visibleRows()[0]);
  // Moving a row in the document takes the focus from it.
  if (focused?.isConnected && focused !== document.activeElement && focused.closest("#tree")) focused.focus({ preventScroll: true });
  renderChips(everything);
  renderDetails();
}

function forget(key, row) {
  onScreen.unobserve(row);
  rows.delete(key);
  row.remove();
}

function addBranch(node, item, open, list) {
  const row = actorRow(node, item);
  list.push(row);
  const below = open && !collapsed.has(row.dataset.key);
  let any = item.found;
  for (const child of item.children) any = addBranch(node, child, below, list) || any;
  show(row, words.length ? any : open);
  mark(row, "data-passed", words.length && any && !item.found ? "" : null);
  return any;
}

let sorted = { key: "", places: new Map() };
let touched = -Infinity; // when the pointer or a key was last at work in the list

/** The flat list. Its order rests while somebody is at work in it, so that rows can be hit. */
function flatList(everything) {
  const list = everything.filter(({ item }) => !item.group);
  if (sorted.key !== order || performance.now() - touched > 3000) {
    const value = ({ item }) => item.actor[order] ?? -1;
    const best = [...list].sort((a, b) => value(b) - value(a) || byName(a.item.path, b.item.path) || byName(a.node.peer, b.node.peer));
    sorted = { key: order, places: new Map(best.map(({ node, item }, i) => [keyOf(node.peer, item.path), i])) };
  }
  const placeOf = ({ node, item }) => sorted.places.get(keyOf(node.peer, item.path)) ?? Infinity;
  return list.sort((a, b) => placeOf(a) - placeOf(b)).map(({ node, item }) => {
    const row = actorRow(node, item);
    mark(row, "data-passed", null);
    show(row, item.found);
    return row;
  });
}

function place(name, list) {
  let body = bodies.get(name);
  if (!body) {
    body = el("tbody");
    bodies.set(name, body);
  }
  const next = name === "flat" ? null : bodies.get("flat") ?? null;
  if (!body.isConnected) $("tree").insertBefore(body, next);
  const keep = new Set(list);
  for (const row of [...body.children]) if (!keep.has(row)) row.remove();
  let at = body.firstElementChild;
  for (const row of list) {
    if (row === at) at = at.nextElementSibling;
    else body.insertBefore(row, at);
  }
}

function renderChips(everything) {
  const actors = everything.filter(({ item }) => !item.group).map(({ item }) => item.actor);
  const all = [...nodes.values()];
  const up = all.filter((node) => node.reachable).length;
  const many = (status) => actors.filter((actor) => actor.status === status).length;
  const chips = [[`${up}/${all.length}`, "nodes", up < all.length ? "bad" : ""], [count(actors.length), "actors", ""]];
  chips.push([rate(actors.reduce((sum, actor) => sum + actor.messages_per_second, 0)), "messages/s", ""]);
  for (const status of ["stuck", "overloaded", "restarting", "stopped", "paused", "draining"]) {
    const n = many(status);
    if (n || ["stuck", "overloaded", "restarting"].includes(status)) chips.push([count(n), status, n ? healthOf(status) : "none", status]);
  }
  const box = $("chips");
  const names = chips.map(([, name]) => name).join();
  if (box.print !== names) {
    box.print = names;
    box.replaceChildren(...chips.map(([, name, , status]) => {
      const chip = el(status ? "button" : "span", "chip", el("b"), ` ${name}`);
      if (status) chip.dataset.filter = status;
      return chip;
    }));
  }
  chips.forEach(([number, , look, status], i) => {
    const chip = box.children[i];
    say(chip.firstElementChild, number);
    mark(chip, "data-look", look);
    if (status) mark(chip, "aria-pressed", words.length === 1 && words[0] === status);
  });
  const stuck = many("stuck");
  document.title = stuck || up < all.length ? `(${[stuck && `${stuck} stuck`, up < all.length && `${all.length - up} away`].filter(Boolean).join(", ")}) Actors` : "Actors";
}

function setFilter(text) {
  $("filter").value = text;
  words = text.toLowerCase().split(/\s+/).filter(Boolean);
  render();
}

function setOrder(value) {
  order = value;
  $("order").value = value;
  for (const button of document.querySelectorAll("th button")) mark(button.parentElement, "aria-sort", value !== "tree" && button.dataset.order === value ? "descending" : null);
  render();
  $("list").scrollTop = 0;
}

/* ---- details ---------------------------------------------------------- */

const selectedItem = () => selected && nodes.get(selected.peer)?.items.get(selected.path);

function openDetails(target) {
  if (selected && keyOf(selected.peer, selected.path) === keyOf(target.peer, target.path)) return;
  selected = target;
  detail = null;
  history.replaceState(null, "", `#${encodeURIComponent(keyOf(target.peer, target.path))}`);
  show($("details"), true);
  $("app").classList.add("with-details");
  $("details-body").scrollTop = 0;
  for (let path = target.path; path; path = path.slice(0, Math.max(0, path.lastIndexOf("/")))) if (path !== target.path) collapsed.delete(keyOf(target.peer, path));
  render();
  rows.get(keyOf(target.peer, target.path))?.scrollIntoView({ block: "nearest" });
  refreshDetails();
}

function closeDetails() {
  if (!selected) return;
  const { peer, path } = selected;
  const within = $("details").contains(document.activeElement);
  selected = detail = null;
  history.replaceState(null, "", location.pathname);
  show($("details"), false);
  $("app").classList.remove("with-details");
  if (!token) return;
  render();
  if (within) rows.get(keyOf(peer, path))?.focus();
}

let asking = null;
async function refreshDetails() {
  const target = selected;
  const item = selectedItem();
  if (!target || asking === target || !item || item.group) return;
  asking = target;
  try {
    const answer = await ask(actorPath(target));
    if (selected === target) detail = answer;
  } catch (error) {
    if (selected === target) detail = { ...detail, problem: sentence(why(error)) };
  } finally {
    if (asking === target) asking = null;
  }
  if (selected === target) renderDetails();
}

function renderDetails() {
  if (!selected) return;
  const node = nodes.get(selected.peer);
  const item = selectedItem();
  const panel = $("details");
  mark(panel, "data-actor", selected.path);
  say($("details-where"), `${node?.node ?? "node"} · ${selected.peer}`);
  say($("details-name"), selected.path);
  const missing = !item && (node?.reachable === false ? `This node is not reachable: ${node.detail}.` : nodes.size ? "There is no such actor now." : "Asking the cluster.");
  const note = missing || detail?.problem || "";
  say($("details-note"), note);
  show($("details-note"), Boolean(note));
  panel.classList.toggle("stale", Boolean(missing));
  const actor = item?.actor ?? detail;
  if (!actor?.status) return fill($("actions"), [], () => []);
  mark(panel, "data-status", actor.status);
  mark($("details-status"), "data-health", healthOf(actor.status));
  say($("details-status"), actor.status);
  say($("details-kind"), actor.kind);
  setTime($("details-up"), actor.started_at);
  fill($("actions"), missing ? [] : actor.actions, (actions) => actions.map((action) => {
    const button = el("button", "", sentence(action).slice(0, -1));
    button.dataset.action = action;
    return button;
  }));
  renderNow(actor);
  renderFigures(actor);
  for (const part of panel.querySelectorAll(".detailed")) show(part, !item?.group && Boolean(detail?.messages));
  if (item) {
    const series = seriesOf(node, item);
    for (const figure of panel.querySelectorAll(".chart")) drawChart(figure, series[figure.dataset.series]);
  }
  if (detail?.messages) renderDetailed(actor);
  const children = item?.group ? item.children.map((child) => child.path) : detail?.children ?? item?.children.map((child) => child.path) ?? [];
  show($("children-part"), children.length > 0);
  fill($("children"), children.map((path) => [path, node?.items.get(path)?.actor.status ?? ""]), (list) => list.map(([path, status]) => {
    const button = el("button", "link", el("span", "", path.slice(selected.path.length + 1)), el("span", "state", status));
    button.dataset.child = path;
    button.lastChild.dataset.health = healthOf(status);
    return el("li", "", button);
  }));
}

function renderNow(actor) {
  const { current, status, last_failure: failure, mailbox_depth: depth } = actor;
  mark($("now"), "data-health", healthOf(status));
  const waiting = depth ? `${plural(depth, "message")} ${depth === 1 ? "waits" : "wait"}` : "nothing waits";
  let text = `Waits for messages; ${waiting}.`;
  if (current) text = `Handles ${current.message}, for ${took(current.for_ms)} now; ${waiting}.`;
  else if (status === "restarting") text = actor.next_try_at ? `Restarts; the next try is ${relative(actor.next_try_at)}.` : "Restarts.";
  else if (status === "paused") text = `Handles nothing until it is resumed; ${waiting}.`;
  else if (status === "draining") text = `Works off what waits, and then stops; ${waiting}.`;
  else if (status === "stopped") text = "Stopped; it handles nothing.";
  else if (status === "stuck") text = `Does not go on; ${waiting}.`;
  else if (status === "starting") text = `Starts; ${waiting}.`;
  else if (actor.kind === "group") text = `${plural(actor.members, "member")}; ${waiting}.`;
  say($("now-line"), text);
  show($("now-trace"), Boolean(current?.trace_id));
  if (current?.trace_id) copyButton($("now-trace").lastElementChild, current.trace_id);
  show($("now-failure"), Boolean(failure));
  if (failure) {
    fill($("now-failure"), failure, () => [el("span", "quiet", "Last failure "), time(failure.at), el("span", "quiet", ": "), failure.reason]);
    setTime($("now-failure").querySelector("time"), failure.at);
  }
}

function renderFigures(actor) {
  for (const row of document.querySelectorAll("tr[data-times]")) {
    ["p50", "p99", "max"].forEach((what, i) => say(row.cells[i + 1], took(actor[`${row.dataset.times}_${what}_ms`])));
  }
  const capacity = actor.mailbox_capacity;
  const figures = [
    ["Messages/s", rate(actor.messages_per_second)], ["Busy", percent(actor.busy_share)],
    ["Mailbox", capacity ? `${count(actor.mailbox_depth)} of ${count(capacity)}` : count(actor.mailbox_depth)], ["Deepest so far", count(actor.mailbox_high_water)],
    ["Handled", count(actor.handled)], ["Restarts", count(actor.restarts), actor.restarts],
    ["Rejected", count(actor.rejected), actor.rejected], ["Expired", count(actor.expired), actor.expired], ["Lost", count(actor.lost), actor.lost],
  ];
  const list = $("figures");
  if (!list.children.length) list.append(...figures.map(([name]) => el("div", "", el("dt", "", name), el("dd"))));
  figures.forEach(([, value, alarming], i) => cell(list.children[i].lastElementChild, value, value === "0" || value === "0 %", Boolean(alarming)));
}

function renderDetailed(actor) {
  for (const canvas of document.querySelectorAll(".histogram")) {
    const of = canvas.dataset.times;
    drawHistogram(canvas, detail[`${of}_histogram`] ?? [], actor[`${of}_p50_ms`], actor[`${of}_p99_ms`]);
  }
  fill($("messages"), Object.entries(detail.messages).sort((a, b) => b[1] - a[1]), (list) => {
    const most = Math.max(1, ...list.map(([, n]) => n));
    if (!list.length) return [el("li", "quiet", "None handled yet.")];
    return list.map(([name, n]) => {
      const bar = el("i", "share");
      bar.style.transform = `scaleX(${n / most})`;
      return el("li", "", bar, el("span", "", name), el("b", "", count(n)));
    });
  });
  fill($("failures"), detail.failures ?? [], (list) => (list.length ? list.map(failureLine) : [el("li", "quiet", "No failures since it was started.")]));
  $("failures").querySelectorAll("time").forEach((one) => setTime(one, one.dateTime));
  const none = detail.state == null;
  show($("state-at"), !none && Boolean(detail.state_at));
  if (detail.state_at) setTime($("state-at"), detail.state_at);
  $("state").classList.toggle("quiet", none);
  fill($("state"), detail.state ?? null, () => (none ? ["This actor does not show its state."] : colored(JSON.stringify(detail.state, null, 2))));
}

function failureLine({ at, reason, trace_id: trace }) {
  const line = el("li", "", time(at), el("span", "reason", reason));
  if (trace) {
    const button = copyButton(el("button", "copy"), trace);
    button.title = "Copy the trace id";
    line.append(button);
  }
  return line;
}

/** JSON with its names, strings and numbers in spans; what is too long to read by colour stays plain. */
function colored(json) {
  if (json.length > 20000) return [json];
  return json.split(/("(?:[^"\\]|\\.)*"(?:\s*:)?|\b(?:true|false|null)\b|-?\d[\d.eE+-]*)/).map((part, i) => {
    if (i % 2 === 0) return part;
    return el("span", part[0] !== '"' ? "number" : part.endsWith(":") ? "key" : "string", part);
  });
}

/* ---- acting ----------------------------------------------------------- */

function whatHappens(action, { current, mailbox_depth: depth }) {
  const waiting = depth ? `the ${plural(depth, "message")} waiting in its mailbox` : "what waits in its mailbox";
  if (action === "restart") return `It ends now. What it is doing${current ? ` (${current.message}, for ${took(current.for_ms)})` : ""} is lost, and its callers get 503; a fresh one starts with ${waiting}.`;
  if (action === "pause") return "It handles nothing until it is resumed; messages wait in its mailbox.";
  if (action === "drain") return `It works off ${waiting}, takes nothing new, and stops.`;
  return `It handles messages again, first ${waiting}.`;
}

let pending = null;

function confirmAction(action) {
  const item = selectedItem();
  if (!item) return;
  pending = { action, ...selected };
  say($("confirm-title"), `${sentence(action).slice(0, -1)} this actor?`);
  say($("confirm-path"), `${selected.path} on ${nodes.get(selected.peer).node}`);
  say($("confirm-text"), whatHappens(action, item.actor));
  const needed = action !== "resume";
  say($("reason-label"), needed ? "Reason" : "Reason (optional)");
  $("reason").required = needed;
  $("reason").value = "";
  $("reason").setCustomValidity("");
  say($("confirm-yes"), sentence(action).slice(0, -1));
  $("confirm-yes").classList.toggle("danger", action === "restart" || action === "drain");
  $("confirm").showModal();
  $("reason").focus();
}

async function act(event) {
  event.preventDefault();
  const reason = $("reason").value.trim();
  if ($("reason").required && !reason) {
    $("reason").setCustomValidity("Say why, in a few words.");
    return $("reason").reportValidity();
  }
  const { action, peer, path } = pending;
  $("confirm-yes").disabled = true;
  try {
    const answer = await ask(actorPath({ peer, path }, action), reason ? { reason } : {});
    toast(typeof answer.detail === "string" ? sentence(answer.detail) : `${sentence(action).slice(0, -1)} of ${path}: accepted.`);
  } catch (error) {
    toast(`${sentence(action).slice(0, -1)} of ${path}: ${why(error)}.`, true);
  } finally {
    $("confirm-yes").disabled = false;
    if ($("confirm").open) $("confirm").close();
    poll();
  }
}

async function showAudit(node) {
  say($("audit-title"), `What was done on ${node.node}`);
  fill($("audit-list"), "asking", () => [el("li", "quiet", "Asking the node.")]);
  if (!$("audit").open) $("audit").showModal();
  let lines;
  try {
    const entries = await ask(nodePath(node.peer, "audit?limit=50"));
    lines = entries.map(({ at, username, action, actor, reason }) => el("li", "", time(at),
      el("p", "", el("b", "", username), ` ${action} `, el("span", "path", actor), reason ? el("span", "reason", reason) : "")));
    if (!lines.length) lines = [el("li", "quiet", "Nobody has acted on this node yet.")];
  } catch (error) {
    lines = [el("li", "quiet", sentence(why(error)))];
  }
  fill($("audit-list"), Date.now(), () => lines);
}

async function exportHistory(node) {
  try {
    const data = await ask(nodePath(node.peer, "history"));
    const link = el("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
    link.download = `history-${node.node}-${node.peer.replace(/[^\w.-]+/g, "-")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    toast(`The history of ${node.node} is saved as ${link.download}.`);
  } catch (error) {
    toast(sentence(why(error)), true);
  }
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    toast("The trace id is copied.");
  } catch {
    getSelection().selectAllChildren(button); // a page without TLS has no clipboard
    toast("The trace id is selected; copy it with the keyboard.");
  }
}

/* ---- keyboard and pointer --------------------------------------------- */

const visibleRows = () => [...$("tree").querySelectorAll("tbody tr:not([hidden])")];

/** One row of the tree is in the tab order: the one last used. */
function rove(row) {
  if (!row) return;
  if (rover !== row.dataset.key || row.tabIndex !== 0) {
    $("tree").querySelectorAll('tr[tabindex="0"]').forEach((other) => other !== row && (other.tabIndex = -1));
    row.tabIndex = 0;
    rover = row.dataset.key;
  }
}

let follow;
function go(row) {
  if (!row) return;
  rove(row);
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
  clearTimeout(follow);
  if (selected && row.item) follow = setTimeout(() => selected && openDetails({ peer: row.dataset.peer, path: row.item.path }), 150);
}

function toggle(row, open) {
  if (!row.hasAttribute("aria-expanded")) return;
  if (open ?? collapsed.has(row.dataset.key)) collapsed.delete(row.dataset.key);
  else collapsed.add(row.dataset.key);
  render();
}

function activate(row) {
  if (!row.item) return toggle(row);
  const { peer, path } = row.dataset;
  if (selected?.peer === peer && selected.path === path) $("details").focus();
  else openDetails({ peer, path });
}

function parentRow(row) {
  if (!row.item) return null;
  return rows.get(keyOf(row.dataset.peer, row.item.parent?.path ?? ""));
}

function rowKey(key, row) {
  const list = visibleRows();
  const at = list.indexOf(row);
  const expanded = row?.getAttribute("aria-expanded");
  if (key === "ArrowDown") go(list[at + 1] ?? list.at(-1));
  else if (key === "ArrowUp") go(list[Math.max(0, at - 1)]);
  else if (key === "Home") go(list[0]);
  else if (key === "End") go(list.at(-1));
  else if (!row) return false;
  else if (key === "ArrowRight") expanded === "false" ? toggle(row, true) : expanded === "true" && go(list[at + 1]);
  else if (key === "ArrowLeft") expanded === "true" ? toggle(row, false) : order === "tree" && go(parentRow(row));
  else if (key === "Enter") activate(row);
  else return false;
  return true;
}

function escape(target) {
  if (target === $("filter")) {
    setFilter("");
    rows.get(rover)?.focus();
  } else if (selected) closeDetails();
  else if (words.length) setFilter("");
}

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || !token || document.querySelector("dialog[open]")) return;
  const typing = target.matches("input, select, textarea");
  if (key === "Escape") escape(target);
  else if (target === $("filter") && (key === "ArrowDown" || key === "Enter")) go(visibleRows().find((row) => row.item?.found) ?? visibleRows()[0]);
  else if (typing) return;
  else if (key === "/") $("filter").select();
  else if (key === "?") $("keys").showModal();
  else if (target.matches("#tree tbody tr")) { if (!rowKey(key, target)) return; }
  else if ((target === document.body || target === $("list")) && key.startsWith("Arrow")) go(rows.get(rover));
  else return;
  event.preventDefault();
});

$("tree").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  const button = event.target.closest("button");
  if (button?.dataset.order) return setOrder(button.dataset.order === order ? "tree" : button.dataset.order);
  if (!row?.dataset.key) return;
  if (button?.dataset.node === "audit") return showAudit(row.node);
  if (button?.dataset.node === "export") return exportHistory(row.node);
  rove(row);
  if (event.target.closest(".twist") || !row.item) return toggle(row);
  if (!getSelection().isCollapsed && row.contains(getSelection().anchorNode)) return; // text is being selected
  openDetails({ peer: row.dataset.peer, path: row.item.path });
  if (matchMedia("(max-width: 800px)").matches) $("details").focus();
});
for (const kind of ["pointermove", "keydown"]) $("tree").addEventListener(kind, () => (touched = performance.now()), { passive: true });
$("tree").addEventListener("focusin", (event) => event.target.matches("tbody tr") && rove(event.target));

$("details").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "details-close") closeDetails();
  else if (button.dataset.action) confirmAction(button.dataset.action);
  else if (button.dataset.copy) copy(button);
  else if (button.dataset.child) openDetails({ peer: selected.peer, path: button.dataset.child });
});

for (const figure of document.querySelectorAll(".chart")) {
  const canvas = figure.querySelector("canvas");
  canvas.addEventListener("pointermove", (event) => {
    figure.hover = Math.min(1, Math.max(0, event.offsetX / canvas.clientWidth));
    renderDetails();
  });
  canvas.addEventListener("pointerleave", () => {
    figure.hover = null;
    renderDetails();
  });
}

$("sign-in-form").addEventListener("submit", signIn);
$("sign-out").addEventListener("click", () => leave(""));
$("filter").addEventListener("input", (event) => setFilter(event.target.value));
$("order").addEventListener("change", (event) => setOrder(event.target.value));
$("keys-open").addEventListener("click", () => $("keys").showModal());
$("empty").lastElementChild.addEventListener("click", () => setFilter(""));
$("chips").addEventListener("click", (event) => {
  const status = event.target.closest("button")?.dataset.filter;
  if (status) setFilter(words.length === 1 && words[0] === status ? "" : status);
});
$("confirm").querySelector("form").addEventListener("submit", act);
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("reason").addEventListener("input", () => $("reason").setCustomValidity(""));
document.querySelectorAll("[data-close]").forEach((button) => button.addEventListener("click", () => button.closest("dialog").close()));

function redraw() {
  mixInk();
  document.querySelectorAll("canvas").forEach((canvas) => (canvas.print = canvas.values = null));
  if (token) render();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("resize", redraw);
document.addEventListener("visibilitychange", poll);

mixInk();
if (token) enter();
else leave("");
