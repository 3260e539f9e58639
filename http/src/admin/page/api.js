// Requests to the node that serves the page. It forwards them to the other nodes.

const TIMEOUT_MS = 10000;
const TOKEN_KEY = "token";

let token = sessionStorage.getItem(TOKEN_KEY);
let onExpired = () => {};

export const isSignedIn = () => Boolean(token);

/** Calls the listener when the server no longer accepts the token. */
export const onTokenExpired = (listener) => (onExpired = listener);

/** Uses the token for the next requests; null for none. It is not stored yet. */
export function useToken(value) {
  token = value;
  if (!value) sessionStorage.removeItem(TOKEN_KEY);
}

/** Keeps the token until the tab is closed. */
export const storeToken = () => sessionStorage.setItem(TOKEN_KEY, token);

/** A response with an error status; the message is the problem's detail. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Sends a request to a path below /admin/: a POST if there is a body, else a GET. */
export async function request(path, body) {
  const headers = { accept: "application/json" };
  const usedToken = token;
  if (usedToken) headers.authorization = `Bearer ${usedToken}`;
  if (body) headers["content-type"] = "application/json";
  const response = await fetch(`/admin/${path}`, {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (response.ok) return response.json().catch(() => ({}));
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && usedToken && usedToken === token) onExpired();
  const message = problem.detail ?? problem.title ?? `the node responded ${response.status}`;
  throw new ApiError(response.status, message);
}

/** What to tell the user about a failed request. */
export const messageOf = (error) =>
  error instanceof ApiError ? error.message : "this node cannot be reached";

const encodePath = (text) =>
  text.split("/").map(encodeURIComponent).join("/").replaceAll("%3A", ":");

/** The path of a node's endpoint. */
export const nodePath = (peer, endpoint) => `cluster/${encodePath(peer)}/${endpoint}`;

/** The path of an actor, or of an action on it. */
export const actorPath = ({ peer, path }, action = "") =>
  nodePath(peer, `actors/${encodePath(path)}${action && `/${action}`}`);
