/**
 * The page's session: the client, the token that it shows, and whom the server takes the reader for.
 *
 * A token is kept in sessionStorage, so that it ends with the tab; it is never in an address.
 */
import { connect } from "../../taskd.js";

const TOKEN = "taskd.token";

const NOT_FOUND = -32601;
const NOT_ALLOWED = -32008;

/** The reasons of a refusal that another token may mend. */
const NEEDS_TOKEN = new Set(["no token", "expired", "unknown", "malformed"]);

/** Whom a server without tokens takes everybody for. */
const ANYBODY = { owner: "", role: "submit", functions: ["*"], args: {}, expires: null, limits: {}, anonymous: true };

/** Seconds before the end of a token within which a new one is asked for. */
const SOON = 60;

/** Return why another token is needed, if an error says so. */
export function tokenReason(error) {
  if (error?.code !== NOT_ALLOWED) return undefined;
  const reason = error.data?.reason ?? "unknown"; // a connection that was refused has none
  return NEEDS_TOKEN.has(reason) ? reason : undefined;
}

const now = () => Date.now() / 1000;

export class Session {
  #askToken;
  #onConnection;
  #token = sessionStorage.getItem(TOKEN);
  #asking;
  #opening;
  #isExpiring = () => false;

  /** The client of taskd.js; another one after a sign-in. */
  client;

  /** What `taskd.whoami` has answered. */
  caller = ANYBODY;

  /**
   * `askToken(reason)` asks the reader for a token and returns it; `onConnection(isConnected)` is called when the connection
   * is there or lost.
   */
  constructor({ askToken, onConnection = () => {} }) {
    this.#askToken = askToken;
    this.#onConnection = onConnection;
  }

  get hasToken() {
    return this.#token !== null;
  }

  /** Connect, and return once the server has let the reader in. If it does not any more, call this again. */
  open(reason) {
    this.#opening ??= this.#open(reason).finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  async #open(reason) {
    for (;;) {
      if (reason) await this.#renew(reason);
      this.#connect();
      try {
        this.caller = await this.#whoami();
        break;
      } catch (error) {
        reason = tokenReason(error);
        if (!reason) throw error;
      }
    }
    const { expires } = this.caller;
    // If it is over already, this clock differs from that of the server, which will say when it is over.
    this.#isExpiring = expires === null || expires < now() ? () => false : () => expires - now() < SOON;
  }

  /** Forget the token, and load the page again. */
  signOut() {
    sessionStorage.removeItem(TOKEN);
    this.client.close();
    location.reload();
  }

  #connect() {
    this.client?.close();
    const options = { connectTimeout: Infinity, onConnection: this.#onConnection };
    if (this.hasToken) options.token = () => this.#current();
    this.client = connect(new URL(".", location.href), options);
  }

  async #whoami() {
    try {
      return await this.client.call("taskd.whoami");
    } catch (error) {
      if (error.code === NOT_FOUND) return ANYBODY;
      throw error;
    }
  }

  /** Return the token; a new one if it is about to end. */
  async #current() {
    if (this.#isExpiring()) await this.#renew("expired");
    return this.#token;
  }

  /** Ask for a token, once however many need it. */
  async #renew(reason) {
    this.#asking ??= this.#askToken(reason);
    try {
      this.#token = await this.#asking;
    } finally {
      this.#asking = undefined;
    }
    sessionStorage.setItem(TOKEN, this.#token);
    this.#isExpiring = () => false;
  }
}

/** Return whether a caller may have a function run: by the patterns of its token. */
export function covers(caller, name) {
  return caller.functions.some(pattern => matches(pattern, name));
}

function matches(pattern, name) {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
  return new RegExp(`^${escaped}$`, "s").test(name);
}
