// The inspector: the actors of the whole cluster, live. This module connects the page's elements
// with the modules below page/.

import {
  confirmAction, copyText, exportHistory, performAction, showAudit,
} from "./page/actions.js";
import { isSignedIn, onTokenExpired } from "./page/api.js";
import { invalidateCharts, loadColors } from "./page/charts.js";
import { closeDetails, openDetails, renderDetails } from "./page/details.js";
import { $ } from "./page/dom.js";
import { keepOrder, renderList, setFilter, setOrder } from "./page/list.js";
import {
  activeRow, focusRow, handleRowKey, onOpen, open, setActiveRow, toggle, visibleRows,
} from "./page/navigation.js";
import { onAccessDenied, poll } from "./page/poll.js";
import { NOT_ADMIN, showCluster, signIn, signOut } from "./page/session.js";
import { changed, onChange, state } from "./page/state.js";
import { renderSummary } from "./page/summary.js";

/** Below this width the details cover the list. */
const NARROW = "(max-width: 800px)";

onChange(renderList);
onChange(renderSummary);
onChange(renderDetails);
onOpen(openDetails);
onTokenExpired(() => signOut("Your session has expired. Sign in again."));
onAccessDenied(() => signOut(NOT_ADMIN));

function handleEscape(target) {
  if (target === $("filter")) {
    setFilter("");
    activeRow()?.focus();
  } else if (state.selected) closeDetails();
  else if (state.filter.length) setFilter("");
}

/** Handles a key of the page. Returns whether it has a meaning here. */
function handleKey(key, target) {
  const isTyping = target.matches("input, select, textarea");
  const isOutside = target === document.body || target === $("list");
  if (key === "Escape") handleEscape(target);
  else if (target === $("filter") && (key === "ArrowDown" || key === "Enter")) {
    const rows = visibleRows();
    focusRow(rows.find((row) => row.item?.matches) ?? rows[0]);
  } else if (isTyping) return false;
  else if (key === "/") $("filter").select();
  else if (key === "?") $("keys").showModal();
  else if (target.matches("#tree tbody tr")) return handleRowKey(key, target);
  else if (isOutside && key.startsWith("Arrow")) focusRow(activeRow());
  else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  const hasModifier = event.ctrlKey || event.metaKey || event.altKey;
  if (hasModifier || !isSignedIn() || document.querySelector("dialog[open]")) return;
  if (handleKey(event.key, event.target)) event.preventDefault();
});

function isSelectingText(row) {
  const selection = getSelection();
  return !selection.isCollapsed && row.contains(selection.anchorNode);
}

$("tree").addEventListener("click", ({ target }) => {
  const row = target.closest("tr");
  const { order, node } = target.closest("button")?.dataset ?? {};
  if (order) setOrder(order === state.order ? "tree" : order);
  else if (!row?.dataset.key) return;
  else if (node === "audit") showAudit(row.node);
  else if (node === "export") exportHistory(row.node);
  else {
    setActiveRow(row);
    if (target.closest(".twist") || !row.item) toggle(row);
    else if (!isSelectingText(row)) {
      open(row);
      if (matchMedia(NARROW).matches) $("details").focus();
    }
  }
});
for (const kind of ["pointermove", "keydown"]) {
  $("tree").addEventListener(kind, keepOrder, { passive: true });
}
$("tree").addEventListener("focusin", ({ target }) => {
  if (target.matches("tbody tr")) setActiveRow(target);
});

$("details").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const { action, copy, child } = button.dataset;
  if (button.id === "details-close") closeDetails();
  else if (action) confirmAction(action);
  else if (copy) copyText(button);
  else if (child) openDetails({ peer: state.selected.peer, path: child });
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
$("sign-out").addEventListener("click", () => signOut(""));
$("filter").addEventListener("input", (event) => setFilter(event.target.value));
$("order").addEventListener("change", (event) => setOrder(event.target.value));
$("keys-open").addEventListener("click", () => $("keys").showModal());
$("empty").lastElementChild.addEventListener("click", () => setFilter(""));
$("chips").addEventListener("click", ({ target }) => {
  const status = target.closest("button")?.dataset.filter;
  const isActive = state.filter.length === 1 && state.filter[0] === status;
  if (status) setFilter(isActive ? "" : status);
});
$("confirm").querySelector("form").addEventListener("submit", performAction);
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("reason").addEventListener("input", () => $("reason").setCustomValidity(""));
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

function redraw() {
  invalidateCharts();
  if (isSignedIn()) changed();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("resize", redraw);
document.addEventListener("visibilitychange", poll);

loadColors();
if (isSignedIn()) showCluster();
else signOut("");
