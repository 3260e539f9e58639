// What an administrator does: control an actor, read the audit log, export the history.

import { actorPath, messageOf, nodePath, request } from "./api.js";
import { $, create, createTime, setChildren, setText, showToast } from "./dom.js";
import { capitalized, formatMs, plural, sentence } from "./format.js";
import { poll } from "./poll.js";
import { selectedItem, state } from "./state.js";

const DANGEROUS = ["restart", "drain"];

/** The number of audit entries that are shown. */
const AUDIT_ENTRIES = 50;

/** How long the exported file can be downloaded. */
const EXPORT_URL_MS = 10000;

/** The action in the open dialog: { action, peer, path }. */
let pending = null;

/** Asks for a reason and a confirmation. */
export function confirmAction(action) {
  const item = selectedItem();
  if (!item) return;
  const { peer, path } = state.selected;
  pending = { action, peer, path };
  setText($("confirm-title"), `${capitalized(action)} this actor?`);
  setText($("confirm-path"), `${path} on ${state.nodes.get(peer).node}`);
  setText($("confirm-text"), effectOf(action, item.actor));
  const isReasonRequired = action !== "resume";
  setText($("reason-label"), isReasonRequired ? "Reason" : "Reason (optional)");
  $("reason").required = isReasonRequired;
  $("reason").value = "";
  $("reason").setCustomValidity("");
  setText($("confirm-yes"), capitalized(action));
  $("confirm-yes").classList.toggle("danger", DANGEROUS.includes(action));
  $("confirm").showModal();
  $("reason").focus();
}

/** What the action does to the actor and its callers. */
function effectOf(action, { current, mailbox_depth: depth }) {
  const queued = depth
    ? `the ${plural(depth, "message")} in its mailbox`
    : "the messages in its mailbox";
  const work = current ? ` (${current.message}, running for ${formatMs(current.for_ms)})` : "";
  const effects = {
    restart: `It stops now. Its current work${work} is rolled back, and the callers get 503. ` +
      `A new actor continues with ${queued}.`,
    pause: "It handles no messages until it is resumed. New messages wait in its mailbox.",
    drain: `It handles ${queued}, refuses new ones, and stops.`,
    resume: `It handles messages again, first ${queued}.`,
  };
  return effects[action];
}

/** Performs the confirmed action. */
export async function performAction(event) {
  event.preventDefault();
  const reason = $("reason").value.trim();
  if ($("reason").required && !reason) {
    $("reason").setCustomValidity("Enter a reason.");
    $("reason").reportValidity();
    return;
  }
  const { action, peer, path } = pending;
  const name = `${capitalized(action)} of ${path}`;
  $("confirm-yes").disabled = true;
  try {
    const response = await request(actorPath({ peer, path }, action), reason ? { reason } : {});
    const isText = typeof response.detail === "string";
    showToast(isText ? sentence(response.detail) : `${name}: accepted.`);
  } catch (error) {
    showToast(`${name}: ${messageOf(error)}.`, true);
  } finally {
    $("confirm-yes").disabled = false;
    if ($("confirm").open) $("confirm").close();
    poll();
  }
}

/** Shows the latest entries of a node's audit log. */
export async function showAudit(node) {
  setText($("audit-title"), `Audit log of ${node.node}`);
  setChildren($("audit-list"), "loading", () => [create("li", "quiet", "Loading.")]);
  if (!$("audit").open) $("audit").showModal();
  let lines;
  try {
    const entries = await request(nodePath(node.peer, `audit?limit=${AUDIT_ENTRIES}`));
    lines = entries.map(auditLine);
    if (!lines.length) lines = [create("li", "quiet", "The audit log is empty.")];
  } catch (error) {
    lines = [create("li", "quiet", sentence(messageOf(error)))];
  }
  setChildren($("audit-list"), Date.now(), () => lines);
}

function auditLine({ at, username, action, actor, reason }) {
  const target = create("span", "path", actor);
  const text = create("p", "", create("b", "", username), ` ${action} `, target);
  if (reason) text.append(create("span", "reason", reason));
  return create("li", "", createTime(at), text);
}

/** Downloads the history of a node's actors as JSON. */
export async function exportHistory(node) {
  try {
    const history = await request(nodePath(node.peer, "history"));
    const json = new Blob([JSON.stringify(history, null, 1)], { type: "application/json" });
    const link = create("a");
    link.href = URL.createObjectURL(json);
    link.download = `history-${node.node}-${node.peer.replace(/[^\w.-]+/g, "-")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), EXPORT_URL_MS);
    showToast(`The history of ${node.node} is saved as ${link.download}.`);
  } catch (error) {
    showToast(sentence(messageOf(error)), true);
  }
}

/** Copies the text of a button to the clipboard. */
export async function copyText(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    showToast("The trace id is copied.");
  } catch {
    getSelection().selectAllChildren(button); // without TLS a page has no clipboard
    showToast("The trace id is selected; copy it with the keyboard.");
  }
}
