-- Times are seconds since 1970, JSON is kept as the bytes it came in, and the
-- order of texts is that of their code points, as in the other stores.

CREATE TABLE taskd.task (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    function text COLLATE "C" NOT NULL,
    args bytea,
    options bytea NOT NULL,
    priority integer NOT NULL,
    wanted double precision NOT NULL,
    deadline double precision,
    key text COLLATE "C",
    token text COLLATE "C",
    batch text COLLATE "C",
    keep double precision NOT NULL,
    fixed boolean NOT NULL,
    limit_key text COLLATE "C",
    owner text COLLATE "C" NOT NULL,
    created double precision NOT NULL
);
COMMENT ON TABLE taskd.task IS 'What a task was submitted with: written once, and not changed but by a shift of the clock';

-- Each unfinished task has a row in one of these three, each ended one has one in "ended".
-- They have the first columns in common, in this order: rows are moved between them whole.
CREATE TABLE taskd.later (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    function text COLLATE "C" NOT NULL,
    limit_key text COLLATE "C",
    priority integer NOT NULL,
    due double precision NOT NULL,
    deadline double precision,
    owner text COLLATE "C" NOT NULL,
    batch text COLLATE "C",
    size bigint NOT NULL,
    attempt integer NOT NULL,
    errors integer NOT NULL,
    losses integer NOT NULL,
    last_seq bigint NOT NULL,
    keep double precision NOT NULL,
    keyed boolean NOT NULL
);
COMMENT ON COLUMN taskd.later.deadline IS 'Until when it must have been started; only as long as it has never been';
COMMENT ON COLUMN taskd.later.size IS 'Bytes of the arguments';
COMMENT ON COLUMN taskd.later.keyed IS 'Whether it has a key, and so a row in "uniq"';
CREATE TABLE taskd.ready (LIKE taskd.later INCLUDING COMMENTS, PRIMARY KEY (id));
CREATE TABLE taskd.lease (
    LIKE taskd.later INCLUDING COMMENTS,
    node integer NOT NULL,
    turn bigint NOT NULL,
    place text COLLATE "C",
    period double precision,
    started boolean NOT NULL DEFAULT false,
    since double precision,
    start_seq bigint,
    cancelled boolean NOT NULL DEFAULT false,
    PRIMARY KEY (id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN taskd.lease.turn IS 'The write of the node that claimed it';
COMMENT ON COLUMN taskd.lease.place IS
    'If the function has limits: the value of its concurrency key under which it counts, empty without one';
COMMENT ON COLUMN taskd.lease.period IS 'If the function has a rate: the seconds for which its start counts';
COMMENT ON COLUMN taskd.lease.since IS 'When the attempt began, and with which number in the log; it has no row in "event"';
COMMENT ON COLUMN taskd.lease.cancelled IS 'Whether another node has been asked to cancel it';

CREATE INDEX later_due ON taskd.later (due, id);
CREATE INDEX later_deadline ON taskd.later (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX later_owner ON taskd.later (owner) INCLUDE (size) WHERE owner <> '';
CREATE INDEX later_batch ON taskd.later (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX ready_turn ON taskd.ready (function, priority, due, id) WHERE limit_key IS NULL;
CREATE INDEX ready_key ON taskd.ready (function, limit_key, priority, due, id) WHERE limit_key IS NOT NULL;
CREATE INDEX ready_place
    ON taskd.ready (function, substr(limit_key, strpos(limit_key, E'\x1f') + 1), priority, due, id)
    WHERE owner <> '' AND limit_key IS NOT NULL;
CREATE INDEX ready_deadline ON taskd.ready (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX ready_owner ON taskd.ready (owner) INCLUDE (size) WHERE owner <> '';
CREATE INDEX ready_batch ON taskd.ready (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX lease_cancelled ON taskd.lease (node, id) WHERE cancelled;
CREATE INDEX lease_deadline ON taskd.lease (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX lease_place ON taskd.lease (function, place) WHERE place IS NOT NULL;
CREATE INDEX lease_owner ON taskd.lease (owner) WHERE owner <> '';
CREATE INDEX lease_batch ON taskd.lease (batch, id) WHERE batch IS NOT NULL;

CREATE TABLE taskd.ended (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    function text COLLATE "C" NOT NULL,
    owner text COLLATE "C" NOT NULL,
    batch text COLLATE "C",
    state smallint NOT NULL,
    attempt integer NOT NULL,
    errors integer NOT NULL,
    losses integer NOT NULL,
    due double precision NOT NULL,
    ended double precision NOT NULL,
    outcome bytea,
    last_seq bigint NOT NULL,
    keep_until double precision NOT NULL,
    started double precision,
    start_seq bigint,
    event text COLLATE "C" NOT NULL,
    data bytea NOT NULL
);
COMMENT ON COLUMN taskd.ended.started IS 'When its last attempt began, and with which number in the log';
COMMENT ON COLUMN taskd.ended.event IS 'The last event of its log, whose number is "last_seq"';
CREATE INDEX ended_keep_until ON taskd.ended (keep_until);
CREATE INDEX ended_state ON taskd.ended (state, id);
CREATE INDEX ended_owner ON taskd.ended (owner, id) WHERE owner <> '';
CREATE INDEX ended_batch ON taskd.ended (batch, id) WHERE batch IS NOT NULL;

CREATE TABLE taskd.event (
    task text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    event text COLLATE "C" NOT NULL,
    at double precision NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (task, seq)
);
COMMENT ON TABLE taskd.event IS
    'Events but for the first of a task, the start of its last attempt, and its end: those follow from the other tables';

CREATE TABLE taskd.started (
    function text COLLATE "C" NOT NULL,
    place text COLLATE "C" NOT NULL,
    at double precision NOT NULL,
    node integer NOT NULL,
    count integer NOT NULL,
    until double precision NOT NULL,
    PRIMARY KEY (function, place, at, node)
);
COMMENT ON TABLE taskd.started IS
    'The starts of functions that have a rate, as long as they count: those of a thousandth of its time together';
COMMENT ON COLUMN taskd.started.at IS 'The end of that thousandth, by the clock of the database';
COMMENT ON COLUMN taskd.started.until IS 'When they count no more';
CREATE INDEX started_until ON taskd.started (until);

CREATE TABLE taskd.uniq (
    kind "char" NOT NULL,
    owner text COLLATE "C" NOT NULL,
    function text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, owner, function, value)
);
COMMENT ON TABLE taskd.uniq IS
    'Keys (k) of unfinished tasks; tokens of tasks (t) and of batches (b), whose function is empty';

CREATE TABLE taskd.batch (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    task bytea NOT NULL,
    total integer NOT NULL,
    created double precision NOT NULL,
    parts integer NOT NULL,
    keep double precision NOT NULL,
    token text COLLATE "C",
    follower bytea,
    owner text COLLATE "C" NOT NULL,
    stored integer NOT NULL DEFAULT 0,
    done integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    cancelled integer NOT NULL DEFAULT 0,
    is_cancelled boolean NOT NULL DEFAULT false,
    ended double precision,
    unstored integer NOT NULL,
    unstored_bytes bigint NOT NULL,
    changed boolean NOT NULL DEFAULT true
) WITH (fillfactor = 50);
COMMENT ON COLUMN taskd.batch.task IS 'MessagePack of what its tasks have in common';
COMMENT ON COLUMN taskd.batch.stored IS 'The number of parts whose tasks are stored';
COMMENT ON COLUMN taskd.batch.changed IS 'Whether its counts have changed since a transaction last returned it';
CREATE INDEX batch_changed ON taskd.batch (id) WHERE changed;
CREATE INDEX batch_unended ON taskd.batch (id) WHERE ended IS NULL;
CREATE INDEX batch_ended ON taskd.batch ((ended + keep)) WHERE ended IS NOT NULL;
CREATE INDEX batch_owner ON taskd.batch (owner, id) WHERE owner <> '';
CREATE TABLE taskd.batch_part (
    batch text COLLATE "C" NOT NULL,
    place integer NOT NULL,
    rows bytea NOT NULL,
    PRIMARY KEY (batch, place)
);
COMMENT ON COLUMN taskd.batch_part.rows IS 'MessagePack; once its tasks are stored, with the ids alone';

CREATE TABLE taskd.schedule (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    line text COLLATE "C" NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE taskd.paused (function text COLLATE "C" NOT NULL PRIMARY KEY);
CREATE TABLE taskd.history (
    seconds integer NOT NULL,
    at bigint NOT NULL,
    function text COLLATE "C" NOT NULL,
    figures bytea NOT NULL,
    PRIMARY KEY (seconds, at, function)
);
CREATE TABLE taskd.audit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at double precision NOT NULL,
    owner text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    entry bytea NOT NULL
);

CREATE TABLE taskd.node (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    functions text[] NOT NULL DEFAULT '{}',
    once text[] NOT NULL DEFAULT '{}',
    labels text[] NOT NULL DEFAULT '{}',
    workers integer NOT NULL DEFAULT 0,
    running integer NOT NULL DEFAULT 0,
    draining boolean NOT NULL DEFAULT false,
    drain boolean NOT NULL DEFAULT false,
    gone timestamptz
) WITH (fillfactor = 50);
COMMENT ON COLUMN taskd.node.gone IS 'When it left, or was found to be dead; it claims nothing any more';
COMMENT ON COLUMN taskd.node.drain IS 'Whether somebody wants it to claim nothing any more';
COMMENT ON COLUMN taskd.node.once IS 'Functions whose tasks fail if it dies while it runs them';

-- Rows of these come and go: what matters is how many are dead, not their share.
ALTER TABLE taskd.later SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.ready SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.lease SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.started SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.uniq SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.batch SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE taskd.node SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);
