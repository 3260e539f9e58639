// Sign-in and sign-out.

import { ApiError, messageOf, request, storeToken, useToken } from "./api.js";
import { closeDetails, linkedActor, openDetails } from "./details.js";
import { $, setText, setVisible } from "./dom.js";
import { sentence } from "./format.js";
import { clearList } from "./list.js";
import { poll, receive, requestCluster, stopPolling } from "./poll.js";
import { state } from "./state.js";

export const NOT_ADMIN = "This account is not an administrator.";

/** Shows the sign-in form with a message, and forgets the session. */
export function signOut(message) {
  useToken(null);
  stopPolling();
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  closeDetails();
  state.nodes.clear();
  clearList();
  setVisible($("app"), false);
  setVisible($("sign-in-view"), true);
  document.title = "Actors";
  setText($("sign-in-error"), message);
  $("password").value = "";
  ($("username").value ? $("password") : $("username")).focus();
}

/** Signs in with the form's name and password. */
export async function signIn(event) {
  event.preventDefault();
  const button = $("sign-in");
  button.disabled = true;
  setText($("sign-in-error"), "");
  try {
    useToken(null);
    const username = $("username").value.trim();
    const response = await request("sign-in", { username, password: $("password").value });
    useToken(response.access_token);
    const cluster = await requestCluster(); // fails unless the user is an administrator
    storeToken();
    showCluster();
    receive(cluster);
  } catch (error) {
    const isForbidden = error instanceof ApiError && error.status === 403;
    signOut(isForbidden ? NOT_ADMIN : sentence(messageOf(error)));
  } finally {
    button.disabled = false;
  }
}

/** Shows the cluster, and the actor that the page's address names. */
export function showCluster() {
  setVisible($("sign-in-view"), false);
  setVisible($("app"), true);
  $("password").value = "";
  const linked = linkedActor();
  if (linked) openDetails(linked);
  poll();
}
