/**
 * All texts of the pages, for translation: write this file anew in another language, and give `language` its tag.
 *
 * Names in braces are filled in. A text that depends on a number is an object with a text for each of the language's plural
 * forms (as `Intl.PluralRules` has them), chosen by `count`.
 */
export default {
  language: "en",

  shared: {
    no: "No, go back",
    disconnected: "The connection is lost. Connecting again …",
  },

  units: {
    now: "just now",
    milliseconds: "{value} ms",
    seconds: "{value} s",
    minutes: "{minutes} min {seconds} s",
    hours: "{hours} h {minutes} min",
  },

  states: {
    scheduled: "Scheduled",
    waiting: "Waiting",
    running: "Running",
    succeeded: "Done",
    failed: "Failed",
    cancelled: "Cancelled",
    expired: "Expired",
    set_aside: "Set aside",
  },

  signIn: {
    heading: "Sign in",
    label: "Token",
    help: "Paste the token that you were given. It is forgotten when you close this tab.",
    verb: "Sign in",
    out: "Sign out",
    reasons: {
      expired: "The token has expired. Please give a new one to go on.",
      unknown: "The server does not know this token. It may have been revoked.",
      malformed: "This is not a valid token.",
    },
  },

  visitor: {
    skip: "Skip to your tasks",
  },

  ops: {
    heading: "Operations",
  },
};
