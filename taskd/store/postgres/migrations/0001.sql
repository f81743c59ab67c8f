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
    started boolean NOT NULL DEFAULT false,
    since double precision,
    start_seq bigint,
    cancelled boolean NOT NULL DEFAULT false,
    PRIMARY KEY (id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN taskd.lease.turn IS 'The write of the node that claimed it';
COMMENT ON COLUMN taskd.lease.since IS 'When the attempt began, and with which number in the log; it has no row in "event"';
COMMENT ON COLUMN taskd.lease.cancelled IS 'Whether another node has been asked to cancel it';

CREATE INDEX later_due ON taskd.later (due, id);
CREATE INDEX later_deadline ON taskd.later (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX later_owner ON taskd.later (owner) INCLUDE (size) WHERE owner <> '';
CREATE INDEX later_batch ON taskd.later (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX ready_turn ON taskd.ready (function, priority, due, id) WHERE limit_key IS NULL;
CREATE INDEX ready_key ON taskd.ready (function, limit_key, priority, due, id) WHERE limit_key IS NOT NULL;
CREATE INDEX ready_deadline ON taskd.ready (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX ready_owner ON taskd.ready (owner) INCLUDE (size) WHERE owner <> '';
CREATE INDEX ready_batch ON taskd.ready (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX lease_cancelled ON taskd.lease (node, id) WHERE cancelled;
CREATE INDEX lease_deadline ON taskd.lease (deadline) WHERE deadline IS NOT NULL;
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
    pids integer[] NOT NULL DEFAULT '{}',
    gone timestamptz
) WITH (fillfactor = 50);
COMMENT ON COLUMN taskd.node.gone IS 'When it left, or was found to be dead; it claims nothing any more';
COMMENT ON COLUMN taskd.node.drain IS 'Whether somebody wants it to claim nothing any more';
COMMENT ON COLUMN taskd.node.pids IS 'Processes of the server for its connections, none behind a pooler: ended when it is dead, since they may hold locks';
COMMENT ON COLUMN taskd.node.once IS 'Functions whose tasks fail if it dies while it runs them';

CREATE UNLOGGED TABLE taskd.watch (
    task text COLLATE "C" NOT NULL,
    node integer NOT NULL,
    PRIMARY KEY (task, node)
);
COMMENT ON TABLE taskd.watch IS
    'Tasks and batches that a node follows while others may run them: whoever changes them notifies it';
CREATE INDEX watch_node ON taskd.watch (node);

-- Rows of these come and go: what matters is how many are dead, not their share.
ALTER TABLE taskd.later SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.ready SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.lease SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.uniq SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.batch SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE taskd.watch SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE taskd.node SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

-- What other programs call in transactions of their own. They may be long: so nothing is locked
-- before their commit, for which no node should have to wait.

CREATE TABLE taskd.function (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    keep double precision NOT NULL,
    once boolean NOT NULL,
    key text COLLATE "C",
    place integer,
    secrets text,
    is_sealed boolean NOT NULL
);
COMMENT ON TABLE taskd.function IS 'What a submit by SQL has to know of a function, as the nodes have it';
COMMENT ON COLUMN taskd.function.key IS 'Its concurrency key, an argument, and the place of that among the others';
COMMENT ON COLUMN taskd.function.secrets IS 'JSON text: which arguments are secret; and whether nodes seal them';

CREATE TABLE taskd.at_commit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what "char" NOT NULL,
    id text COLLATE "C" NOT NULL,
    owner text COLLATE "C",
    function text COLLATE "C",
    value text COLLATE "C",
    node integer,
    attempt integer,
    outcome bytea
);
COMMENT ON TABLE taskd.at_commit IS
    'What is done when its transaction is committed: a key (k) or token (t) is held, a task settled (s) or cancelled (c)';
CREATE INDEX at_commit_unique ON taskd.at_commit (value, what, owner, function) WHERE what IN ('k', 't');
ALTER TABLE taskd.at_commit SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE FUNCTION taskd.new_id(moment double precision) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    -- A UUID of version 7: milliseconds, 12 bits of their fraction, 62 random bits.
    SELECT concat_ws('-',
        left(milliseconds, 8), right(milliseconds, 4), '7' || lpad(to_hex(stamp & 4095), 3, '0'),
        substr(gen_random_uuid()::text, 20, 4), substr(gen_random_uuid()::text, 25))
    FROM (SELECT floor(moment * 4096000)::bigint AS stamp) AS made,
        LATERAL (SELECT lpad(to_hex(stamp >> 12), 12, '0') AS milliseconds) AS first
$$;

CREATE FUNCTION taskd.limit_key(key text, place integer, owner text, args json) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
-- Tasks with the same one share a turn in being claimed. The limits read the arguments themselves, so
-- that nothing but turns depends on how a value is written.
DECLARE
    value json;
    shown text := '';
BEGIN
    IF key IS NOT NULL THEN
        BEGIN
            value := CASE json_typeof(args) WHEN 'object' THEN args -> key ELSE args -> place END;
            shown := coalesce(CASE json_typeof(value)
                WHEN 'string' THEN to_json(value #>> '{}')::text ELSE value::text END, '');
        EXCEPTION WHEN untranslatable_character OR invalid_text_representation THEN
            shown := args::text; -- some text in it is none of PostgreSQL's
        END;
    END IF;
    IF length(shown) > 200 THEN
        shown := 'sha256:' || encode(sha256(convert_to(shown, 'UTF8')), 'hex');
    END IF;
    RETURN CASE WHEN owner <> '' THEN owner || chr(31) || shown WHEN key IS NOT NULL THEN shown END;
END
$$;

CREATE FUNCTION taskd.seconds_of(name text, given interval, lowest double precision) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seconds double precision := extract(epoch FROM given);
BEGIN
    IF NOT seconds BETWEEN lowest AND 3153600000 THEN
        RAISE EXCEPTION 'taskd.submit: % is an interval %, not %', name,
            CASE WHEN lowest > 0 THEN 'longer than 0, and of a century at most'
            ELSE 'of a century at most, not a negative one' END, given
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN seconds;
END
$$;

CREATE FUNCTION taskd.check_length(name text, given text, longest integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF length(given) NOT BETWEEN 1 AND longest THEN
        RAISE EXCEPTION 'taskd.submit: % has 1 to % characters, not %', name, longest, length(given)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

CREATE FUNCTION taskd.taken("what" "char", owner text, function text, value text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
-- Returns the task that has a key or a token, null for none. Other transactions that ask for the
-- same wait until this one ends; nodes do not, since it is held only when this one is committed.
#variable_conflict use_column
DECLARE
    found text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(
        concat_ws(chr(31), 'taskd', taken.what, taken.owner, taken.function, taken.value) COLLATE "C", 0));
    SELECT u.id INTO found FROM taskd.uniq AS u
    WHERE u.kind = taken.what AND u.owner = taken.owner AND u.function = taken.function AND u.value = taken.value;
    IF found IS NULL THEN
        SELECT a.id INTO found FROM taskd.at_commit AS a
        WHERE a.what IN ('k', 't') AND a.what = taken.what AND a.owner = taken.owner
            AND a.function = taken.function AND a.value = taken.value;
    END IF;
    RETURN found;
END
$$;

CREATE FUNCTION taskd.submit(
    function text,
    args json DEFAULT '[]',
    delay interval DEFAULT NULL,
    key text DEFAULT NULL,
    priority integer DEFAULT 5,
    token text DEFAULT NULL,
    owner text DEFAULT '',
    timeout interval DEFAULT NULL,
    retries integer DEFAULT NULL,
    keep interval DEFAULT NULL,
    at timestamptz DEFAULT NULL,
    deadline interval DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    most_bytes CONSTANT integer := 10485760;
    most_levels CONSTANT integer := 254;
    moment double precision := extract(epoch FROM clock_timestamp());
    starts double precision := 0;
    expires double precision;
    kept double precision;
    body bytea;
    known taskd.function;
    joined text;
    task text;
    place_of_key text;
BEGIN
    IF coalesce(submit.function, '') = '' THEN
        RAISE EXCEPTION 'taskd.submit: function is the name of one' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    submit.function := replace(submit.function, chr(1), chr(1) || chr(2));
    SELECT * INTO known FROM taskd.function AS f WHERE f.name = submit.function;
    IF known.name IS NULL AND EXISTS (SELECT FROM taskd.function) THEN
        RAISE EXCEPTION 'taskd.submit: no such function: %', submit.function
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A node has to have been started with it.';
    END IF;
    submit.args := coalesce(submit.args, '[]');
    IF json_typeof(submit.args) NOT IN ('array', 'object') THEN
        RAISE EXCEPTION 'taskd.submit: args is an object or an array, not %',
            CASE json_typeof(submit.args) WHEN 'null' THEN 'null' ELSE 'a ' || json_typeof(submit.args) END
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    body := convert_to(ltrim(submit.args::text, E' \t\r\n'), 'UTF8');
    IF length(body) > most_bytes THEN
        RAISE EXCEPTION 'taskd.submit: args has % bytes, and may have %', length(body), most_bytes
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    IF taskd.levels(submit.args::text, most_levels) > most_levels THEN
        RAISE EXCEPTION 'taskd.submit: args is nested more than % levels deep', most_levels
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    IF submit.priority IS NULL OR submit.priority NOT BETWEEN 0 AND 9 THEN
        RAISE EXCEPTION 'taskd.submit: priority is 0 (first) to 9 (last), not %', coalesce(submit.priority::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF submit.retries < 0 THEN
        RAISE EXCEPTION 'taskd.submit: retries is a number, 0 or more, not %', submit.retries
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF submit.retries > 0 AND known.once THEN
        RAISE EXCEPTION 'taskd.submit: % is run once (once=True), so that it has no retries', submit.function
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF known.is_sealed THEN
        RAISE EXCEPTION 'taskd.submit: % has secret arguments, which only a server can seal', submit.function
            USING ERRCODE = 'feature_not_supported', HINT = 'Submit the task to a server.';
    END IF;
    PERFORM taskd.check_length('key', submit.key, 200), taskd.check_length('token', submit.token, 200);
    submit.owner := coalesce(submit.owner, '');
    IF length(submit.owner) > 200 OR submit.owner ~ '[\x01-\x1f\x7f]' THEN
        RAISE EXCEPTION 'taskd.submit: owner has 200 characters at most, none of them a control character'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF submit.at IS NOT NULL THEN
        IF submit.delay <> interval '0' THEN
            RAISE EXCEPTION 'taskd.submit: a task is due at a time, or after a delay: not both'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF submit.at NOT BETWEEN '0001-01-02 00:00+00' AND '9999-12-30 00:00+00' THEN
            RAISE EXCEPTION 'taskd.submit: at is a time in the years 1 to 9999, not %', submit.at
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        starts := extract(epoch FROM submit.at);
    ELSIF submit.delay IS NOT NULL AND taskd.seconds_of('delay', submit.delay, 0) > 0 THEN
        starts := moment + taskd.seconds_of('delay', submit.delay, 0);
    END IF;
    expires := greatest(starts, moment) + taskd.seconds_of('deadline', submit.deadline, 1e-6);
    kept := coalesce(taskd.seconds_of('keep', submit.keep, 0), known.keep, 3600);
    submit.key := replace(submit.key, chr(1), chr(1) || chr(2));
    submit.token := replace(submit.token, chr(1), chr(1) || chr(2));
    IF submit.token IS NOT NULL THEN
        joined := taskd.taken('t', submit.owner, '', submit.token);
        IF joined IS NOT NULL THEN
            RETURN joined;
        END IF;
    END IF;
    IF submit.key IS NOT NULL THEN
        joined := taskd.taken('k', submit.owner, submit.function, submit.key);
        IF joined IS NOT NULL THEN
            RETURN joined;
        END IF;
    END IF;
    task := taskd.new_id(moment);
    place_of_key := taskd.limit_key(known.key, known.place, submit.owner, submit.args);
    INSERT INTO taskd.task VALUES (
        task, submit.function, body,
        convert_to(json_strip_nulls(json_build_object(
            'timeout', taskd.seconds_of('timeout', submit.timeout, 1e-6), 'priority', submit.priority,
            'retries', submit.retries, 'secrets', known.secrets::json
        ))::text, 'UTF8'),
        submit.priority, starts, expires, submit.key, submit.token, NULL, kept, submit.at IS NOT NULL,
        place_of_key, submit.owner, moment
    );
    IF starts > moment THEN
        INSERT INTO taskd.later VALUES (
            task, submit.function, place_of_key, submit.priority, starts, expires, submit.owner, NULL,
            length(body), 0, 0, 0, 1, kept, submit.key IS NOT NULL
        );
    ELSE
        INSERT INTO taskd.ready VALUES (
            task, submit.function, place_of_key, submit.priority, moment, expires, submit.owner, NULL,
            length(body), 0, 0, 0, 1, kept, submit.key IS NOT NULL
        );
    END IF;
    IF submit.token IS NOT NULL THEN
        INSERT INTO taskd.at_commit (what, id, owner, function, value)
        VALUES ('t', task, submit.owner, '', submit.token);
    END IF;
    IF submit.key IS NOT NULL THEN
        INSERT INTO taskd.at_commit (what, id, owner, function, value)
        VALUES ('k', task, submit.owner, submit.function, submit.key);
    END IF;
    RETURN task;
END
$$;
COMMENT ON FUNCTION taskd.submit IS
    'Stores a task, as taskd.submit of a server does, if and when this transaction is committed; returns its id';

CREATE FUNCTION taskd.levels(given text, most integer) RETURNS integer
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
-- Returns how deep JSON text is nested; a number greater than "most" if it is deeper.
DECLARE
    brackets text;
    depth integer := 0;
BEGIN
    IF length(given) <= most OR length(given) - length(translate(given, '[{', '')) <= most THEN
        RETURN 0;
    END IF;
    brackets := regexp_replace(given, '"(?:[^"\\]|\\.)*"', '', 'g');
    brackets := translate(regexp_replace(brackets, '[^][{}]+', '', 'g'), '{}', '[]');
    WHILE brackets <> '' AND depth <= most LOOP
        depth := depth + 1;
        brackets := replace(brackets, '[]', ''); -- the innermost pairs
    END LOOP;
    RETURN depth;
END
$$;

CREATE FUNCTION taskd.state(id text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM taskd.later AS t WHERE t.id = state.id) THEN 'scheduled'
        WHEN EXISTS (SELECT FROM taskd.ready AS t WHERE t.id = state.id) THEN 'waiting'
        ELSE coalesce(
            (SELECT CASE WHEN t.started THEN 'running' ELSE 'waiting' END FROM taskd.lease AS t WHERE t.id = state.id),
            (SELECT ('{succeeded,failed,cancelled,expired,set_aside}'::text[])[t.state - 2]
                FROM taskd.ended AS t WHERE t.id = state.id)
        )
    END
$$;
COMMENT ON FUNCTION taskd.state IS 'Returns the state of a task, null if there is none';

CREATE FUNCTION taskd.cancel(id text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was text := taskd.state(cancel.id);
BEGIN
    IF was IN ('scheduled', 'waiting', 'running') THEN
        INSERT INTO taskd.at_commit (what, id) VALUES ('c', cancel.id);
    END IF;
    RETURN was;
END
$$;
COMMENT ON FUNCTION taskd.cancel IS
    'Has an unfinished task cancelled when this transaction is committed; returns its state now, null if there is none';

CREATE FUNCTION taskd.settle(id text, attempt integer, node integer, outcome json DEFAULT 'null') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM taskd.lease AS t WHERE t.id = settle.id AND t.node = settle.node
            AND settle.attempt = CASE WHEN t.started THEN t.attempt ELSE t.attempt + 1 END
    ) THEN
        RAISE EXCEPTION 'taskd.settle: attempt % of task % is not its own any more', settle.attempt, settle.id
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Others may run it: roll back.';
    END IF;
    INSERT INTO taskd.at_commit (what, id, node, attempt, outcome) VALUES (
        's', settle.id, settle.node, settle.attempt, convert_to(coalesce(settle.outcome, 'null')::text, 'UTF8')
    );
END
$$;
COMMENT ON FUNCTION taskd.settle IS
    'Lets a running task succeed if and when this transaction is committed, which fails if the task is run by others';

CREATE FUNCTION taskd.note_end(
    gone taskd.later, state smallint, attempt integer, outcome bytea, seq bigint,
    started double precision, start_seq bigint, event text
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    moment double precision := extract(epoch FROM clock_timestamp());
BEGIN
    INSERT INTO taskd.ended VALUES (
        gone.id, gone.function, gone.owner, gone.batch, note_end.state, note_end.attempt, gone.errors, gone.losses,
        CASE WHEN note_end.state = 3 THEN moment ELSE gone.due END, moment, note_end.outcome, note_end.seq,
        moment + gone.keep, note_end.started, note_end.start_seq, note_end.event, '\x7b7d'
    );
    IF gone.keyed THEN
        DELETE FROM taskd.uniq AS u USING taskd.task AS t
        WHERE t.id = gone.id AND u.kind = 'k' AND u.owner = t.owner AND u.function = t.function AND u.value = t.key;
    END IF;
    IF gone.batch IS NOT NULL THEN
        UPDATE taskd.batch AS b SET changed = true, done = b.done + (note_end.state = 3)::int,
            cancelled = b.cancelled + (note_end.state = 5)::int
        WHERE b.id = gone.batch;
    END IF;
END
$$;

CREATE FUNCTION taskd.do_at_commit() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment double precision := extract(epoch FROM clock_timestamp());
    gone taskd.later;
    own taskd.lease;
    first bigint;
BEGIN
    DELETE FROM taskd.at_commit WHERE number = NEW.number;
    IF NEW.what IN ('k', 't') THEN
        INSERT INTO taskd.uniq VALUES (NEW.what, NEW.owner, NEW.function, NEW.value, NEW.id) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'taskd.submit: a task with this % has been submitted to a server meanwhile',
                CASE NEW.what WHEN 'k' THEN 'key' ELSE 'token' END
                USING ERRCODE = 'serialization_failure', HINT = 'Do the transaction again: it joins that task.';
        END IF;
    ELSIF NEW.what = 's' THEN
        DELETE FROM taskd.lease AS t WHERE t.id = NEW.id AND t.node = NEW.node
            AND NEW.attempt = CASE WHEN t.started THEN t.attempt ELSE t.attempt + 1 END
        RETURNING * INTO own;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'taskd.settle: attempt % of task % is not its own any more', NEW.attempt, NEW.id
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Others may run it.';
        END IF;
        first := NEW.attempt::bigint << 32;
        gone := ROW(
            own.id, own.function, own.limit_key, own.priority, own.due, own.deadline, own.owner, own.batch, own.size,
            own.attempt, own.errors, own.losses, own.last_seq, own.keep, own.keyed
        );
        -- The last number of the attempt, since the node may have given out any of the others.
        PERFORM taskd.note_end(
            gone, 3::smallint, NEW.attempt, NEW.outcome, ((NEW.attempt::bigint + 1) << 32) - 1,
            CASE WHEN own.started THEN own.since ELSE moment END,
            CASE WHEN own.started THEN own.start_seq ELSE greatest(own.last_seq + 1, first) END, 'succeeded'
        );
    ELSE
        FOR try IN 1..2 LOOP -- since a node may move it from one table to another meanwhile
            DELETE FROM taskd.later WHERE id = NEW.id RETURNING * INTO gone;
            IF NOT FOUND THEN
                DELETE FROM taskd.ready WHERE id = NEW.id RETURNING * INTO gone;
            END IF;
            IF FOUND THEN
                PERFORM taskd.note_end(
                    gone, 5::smallint, gone.attempt, NULL, gone.last_seq + 1, NULL, NULL, 'cancelled'
                );
                EXIT;
            END IF;
            UPDATE taskd.lease SET cancelled = true WHERE id = NEW.id;
            EXIT WHEN FOUND;
        END LOOP;
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER do_at_commit AFTER INSERT ON taskd.at_commit
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION taskd.do_at_commit();

CREATE FUNCTION taskd.wake() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_notify('taskd_wake', '')
$$;
COMMENT ON FUNCTION taskd.wake IS 'Has the nodes look for new tasks now: call it after the commit';

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA taskd FROM PUBLIC;
