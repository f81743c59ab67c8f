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
    unknown: "Unknown",
  },

  signIn: {
    heading: "Sign in",
    label: "Token",
    help: "Paste the token that you were given. It is forgotten when you close this tab.",
    verb: "Sign in",
    out: "Sign out",
    reasons: {
      expired: "Your token ends, or has ended. Give a new one to go on.",
      unknown: "The server does not know this token. It may have been revoked.",
      malformed: "This is no token: it has other characters, or is cut off.",
    },
  },

  visitor: {
    skip: "Skip to your tasks",
    failed: "The server did not answer as expected: {message}",
  },

  functions: {
    heading: "Start a task",
    search: "Search",
    none: "There is nothing that you may start here.",
    notFound: "Nothing is called that.",
  },

  form: {
    one: "One task",
    many: "From a table",
    howMany: "How many tasks",
    start: "Start",
    done: "Started.",
    see: "See your tasks",
    optional: "optional",
    fromFile: "From a file …",
    fromFileOf: "{name}: read from a file",
    list: "One in each line.",
    file: "The file is sent as it is.",
    secret: "It is shown nowhere.",
    json: "As JSON: {kinds}.",
    mixed: "What is valid JSON and fits is sent as such, anything else as text.",
    anything: "What is valid JSON is sent as such, anything else as text.",
    nullable: "If it is empty, nothing (null) is sent.",
    preset: "Default: {value}",
    unset: "Not set",
    none: "None",
    choose: "Choose …",
    yes: "Yes",
    no: "No",
    fixed: "{name} is set to {value} for you.",
    later: "Start it later",
    at: "Not before",
    atHint: "In the time of this device. Empty means now.",
  },

  kinds: {
    array: "a list",
    object: "an object",
    string: "a text",
    number: "a number",
    integer: "a whole number",
    boolean: "true or false",
  },

  bulk: {
    label: "A table, as CSV",
    hint: "Paste it, or drop a file here. The first line names the columns: {names}. Each further line is a task.",
    file: "From a file …",
    longFile: "{name} is too long to be shown here in full.",
    start: { one: "Start {count} task", other: "Start {count} tasks" },
    startNone: "Start the tasks",
    table: "The rows that were found",
    rows: { one: "{count} row", other: "{count} rows" },
    first: "The first {shown} of {count} rows",
    problems: { one: "There is a problem. Nothing is sent before it is solved.", other: "There are {count} problems. Nothing is sent before they are solved." },
    moreProblems: { one: "… and one more", other: "… and {count} more" },
    line: "Line {line}: ",
    cell: "Line {line}, {column}: ",
  },

  problems: {
    missing: "Please fill this in.",
    integer: "“{text}” is not a whole number.",
    number: "“{text}” is not a number.",
    large: "{text} is too large a number for a browser to send unchanged.",
    truth: "“{text}” is neither yes nor no.",
    choice: "“{text}” is none of: {choices}.",
    json: "This is not valid JSON.",
    kind: "This must be {kinds}.",
    line: "Line {line}: {problem}",
    gap: "{name} must be filled in, because something follows it.",
    byName: "Further values cannot be combined with what is given by name alone.",
    fileTooLong: "{name} is too long: at most {most} MiB can be sent.",
    quote: "The quotation mark in line {line} is never closed.",
    afterQuote: "Line {line} has text behind a closing quotation mark.",
    column: "There is no “{name}” to fill in. The columns may be called: {names}.",
    twice: "The column “{name}” is there twice.",
    noColumn: "The column “{name}” is missing.",
    cells: { one: "{count} cell, and not {wanted}.", other: "{count} cells, and not {wanted}." },
    tooMany: "{count} rows are too many: {most} can be sent at once.",
  },

  tasks: {
    heading: "Your tasks",
    own: "They are here on every device on which you sign in.",
    here: "This browser remembers them.",
    empty: "There are none yet. What you start shows up here, and is still here when you come back.",
    more: "Show older ones",
    forget: "Remove those that have ended",
    news: "{name}: {state}",
    title: "taskd",
    titleRunning: "({count}) taskd",
  },

  progress: {
    label: "Progress of the task",
  },

  card: {
    progressOf: "Progress of {name}",
    details: "Details",
    detailsOf: "Details of {name}",
    cancel: "Cancel",
    cancelOf: "Cancel {name}",
    retry: "Try again",
    retryOf: "Try {name} again",
    cancelBatch: "Cancel what has not ended?",
    cancelBatchText: {
      one: "{count} task will not be run to its end. What has ended stays as it is.",
      other: "{count} tasks will not be run to their ends. What has ended stays as it is.",
    },
    cancelBatchVerb: "Cancel them",
    counts: "{done} of {total}",
    failed: { one: "{count} failed", other: "{count} failed" },
    cancelled: { one: "{count} cancelled", other: "{count} cancelled" },
    moreFailures: { one: "… and one more", other: "… and {count} more" },
    function: "Function",
    taskId: "Task",
    batchId: "Batch",
    created: "Begun",
    due: "Not before",
    ended: "Ended",
    endedAfter: "{at}, after {duration}",
    attempts: "Attempts",
    result: "Result",
    noResult: "It has no result.",
    save: "Save the result",
  },

  events: {
    queued: "Accepted",
    started: "Started (attempt {attempt})",
    progress: "{message}",
    partial: "Partial result: {value}",
    gap: "More partial results than are kept",
    retrying: "Failed, next attempt at {due}: {error}",
    returned: "Stopped by the server; it is run again",
    lost: "Its process was lost; it is run again: {error}",
    succeeded: "Done",
    failed: "Failed: {error}",
    cancelled: "Cancelled",
    expired: "Expired: {error}",
    set_aside: "Set aside: {error}",
    detached: "Forgotten by the server",
  },

  ops: {
    heading: "Operations",
  },
};
