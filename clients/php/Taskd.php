<?php

declare(strict_types=1);

/*
 * The PHP client of taskd: one file, PHP 8.1 or newer, no other package.
 *
 *     $client = new Taskd\Client();              // TASKD_SERVER, else 127.0.0.1:12345
 *     echo $client->call('hello', ['name' => 'Ann']);
 *
 * An array of arguments is a list (by position) or has names (by name). The
 * errors of the protocol are subclasses of Taskd\Error. A call that was sent is
 * never sent again: if its connection is lost, Taskd\Unreachable says whether it
 * had been sent, in which case its function may have run.
 */

namespace Taskd;

// --- errors ------------------------------------------------------------------

/** The base of all errors of this client; `getCode()` is the code on the wire, `data` has the details. */
class Error extends \RuntimeException
{
    /** The code of an error that is made here. */
    protected const CODE = -32603;

    private const BY_CODE = [
        -32700 => ParseError::class,
        -32600 => InvalidRequest::class,
        -32601 => MethodNotFound::class,
        -32602 => InvalidParams::class,
        -32603 => InternalError::class,
        -32000 => TaskFailed::class,
        -32001 => TimedOut::class,
        -32002 => Cancelled::class,
        -32003 => WorkerLost::class,
        -32004 => Busy::class,
        -32005 => ShuttingDown::class,
        -32006 => TooLarge::class,
        -32007 => Unreachable::class,
        -32008 => NotAllowed::class,
    ];

    /** @param array<string, mixed> $data details for programs, as docs/protocol.md lists them */
    final public function __construct(string $message, public readonly array $data = [], ?int $code = null)
    {
        parent::__construct($message, $code ?? static::CODE);
    }

    /** Return the exception that stands for an error object of the protocol. */
    public static function of(array|object $error): self
    {
        $error = (array) $error;
        $code = (int) ($error['code'] ?? self::CODE);
        $data = $error['data'] ?? [];
        $class = self::BY_CODE[$code] ?? self::class;
        return new $class(
            (string) ($error['message'] ?? ''),
            is_array($data) || is_object($data) ? (array) $data : ['data' => $data],
            $code,
        );
    }
}

/** The message is not JSON, or not UTF-8. */
class ParseError extends Error
{
    protected const CODE = -32700;
}

/** The message is JSON but not a request; `data['member']` is the offending member or option. */
class InvalidRequest extends Error
{
    protected const CODE = -32600;
}

/** No function with that name is registered. */
class MethodNotFound extends Error
{
    protected const CODE = -32601;
}

/** The arguments do not fit the function, or there is no such task. */
class InvalidParams extends Error
{
    protected const CODE = -32602;
}

/** A bug in taskd; `data['reference']` finds it in the server's log. */
class InternalError extends Error
{
}

/** The function raised an exception: `data['type']` and `data['message']`. */
class TaskFailed extends Error
{
    protected const CODE = -32000;
}

/** The task exceeded its time: `data['limit']` (`timeout` or `deadline`) and `data['seconds']`. */
class TimedOut extends Error
{
    protected const CODE = -32001;
}

/** Somebody cancelled the task. */
class Cancelled extends Error
{
    protected const CODE = -32002;
}

/** The worker process ended while it ran the task. */
class WorkerLost extends Error
{
    protected const CODE = -32003;
}

/** The queue is full; `data['retry_after']` is in seconds. */
class Busy extends Error
{
    protected const CODE = -32004;
}

/** The server is stopping, and takes no more tasks. */
class ShuttingDown extends Error
{
    protected const CODE = -32005;
}

/** The message or the result is over the limit, `data['limit']` in bytes. */
class TooLarge extends Error
{
    protected const CODE = -32006;
}

/** There is no server, or the connection was lost; with `data['sent']` the task may have run. */
class Unreachable extends Error
{
    protected const CODE = -32007;

    /** Return whether the call had been sent, in which case its function may have run. */
    public function sent(): bool
    {
        return (bool) ($this->data['sent'] ?? true);
    }
}

/** The caller may not do this to a task that may be somebody else's. */
class NotAllowed extends Error
{
    protected const CODE = -32008;
}

/** The client stopped waiting, after `data['seconds']`. */
class WaitTimeout extends Error
{
}

// --- what tasks report -------------------------------------------------------

/** What a function has reported by `taskd.progress`; `total` and `message` may be missing. */
final class Progress
{
    public function __construct(
        public readonly int|float $done,
        public readonly int|float|null $total,
        public readonly ?string $message,
    ) {
    }
}

/** An event of a stored task or a batch; `data` has the members that depend on the kind of event. */
final class Event
{
    /** @param array<string, mixed> $data */
    public function __construct(
        public readonly int $seq,
        public readonly string $event,
        public readonly float $at,
        public readonly array $data,
    ) {
    }
}

// --- the client --------------------------------------------------------------

/**
 * A client of a task server.
 *
 * Connections are made when they are needed, and kept. After a fork the child
 * makes its own; with TLS, fork before the first call.
 */
final class Client
{
    private readonly Link $link;

    /**
     * @param ?string $server `HOST:PORT`, `PORT`, `unix:PATH`, `/path` or
     *     `tls:HOST:PORT[:trustRoots=FILE][:certificate=FILE:privateKey=FILE]`;
     *     without it the environment's TASKD_SERVER, else 127.0.0.1:12345
     * @param float $connectTimeout seconds for which a server that is not there is tried again
     * @param bool $objects whether objects in results are `stdClass` instead of arrays,
     *     so that an empty object and an empty array remain different
     * @param string|callable(): string|null $token shows the server who is calling: a text, or a function that
     *     returns one for each connection; without it the environment's TASKD_TOKEN, if there is one.
     *     (A submit's `token` is another thing.)
     */
    public function __construct(
        ?string $server = null,
        float $connectTimeout = 5.0,
        bool $objects = false,
        string|callable|null $token = null,
    ) {
        $server ??= getenv('TASKD_SERVER') ?: Address::DEFAULT;
        $credentials = Credentials::of($token ?? (trim(getenv('TASKD_TOKEN') ?: '') ?: null));
        $this->link = new Link(Address::of($server), $connectTimeout, $objects, $credentials);
    }

    /**
     * Call a function and return its result.
     *
     * @param array<mixed> $args a list (by position), or with names; `new \stdClass()` is an empty object
     * @param ?float $timeout seconds of run time, after which the task is stopped (`TimedOut`)
     * @param ?int $priority from 0 (first) to 9
     * @param ?float $deadline seconds in which the task must be started (else `TimedOut`)
     * @param ?string $onDisconnect `cancel`, if the task is to end when this program does
     * @param ?float $wait seconds for the reply; then the task is cancelled (`WaitTimeout`)
     * @param ?callable(Progress): mixed $onProgress is called with what the function reports
     *
     * @throws Error
     */
    public function call(
        string $function,
        array $args = [],
        ?float $timeout = null,
        ?int $priority = null,
        ?float $deadline = null,
        ?string $onDisconnect = null,
        ?float $wait = null,
        ?callable $onProgress = null,
    ): mixed {
        $options = [
            'timeout' => $timeout,
            'priority' => $priority,
            'deadline' => $deadline,
            'on_disconnect' => $onDisconnect,
            'progress' => $onProgress === null ? null : true,
        ];
        return $this->link->ask(Message::of($function, $args, $options), false, $wait, $onProgress);
    }

    /**
     * Have a task stored, and return its handle at once.
     *
     * It is sent again if the connection is lost: the server stores one task
     * for a token, and without one of yours it gets one of its own.
     *
     * @param array<mixed> $args as for `call`
     * @param ?string $key of the unfinished tasks of a function only one has the same key
     * @param ?float $delay seconds before it may be started
     * @param string|\DateTimeInterface|null $at the time from which it may be started
     *
     * @throws Error
     */
    public function submit(
        string $function,
        array $args = [],
        ?float $timeout = null,
        ?int $priority = null,
        ?float $deadline = null,
        ?string $key = null,
        ?float $delay = null,
        string|\DateTimeInterface|null $at = null,
        ?int $retries = null,
        ?float $keep = null,
        ?string $token = null,
    ): Task {
        $options = [
            'timeout' => $timeout,
            'priority' => $priority,
            'deadline' => $deadline,
            'key' => $key,
            'delay' => $delay,
            'at' => $at instanceof \DateTimeInterface ? $at->format('Y-m-d\TH:i:s.uP') : $at,
            'retries' => $retries,
            'keep' => $keep,
        ];
        $params = ['function' => $function, 'args' => Message::args($args) ?: null];
        $answer = $this->store('taskd.submit', $params, $options, $token);
        // With nothing that others know, it can have joined only itself, when it was sent again.
        return new Task($this->link, $answer['task'], $answer['joined'] && ($token ?? $key) !== null);
    }

    /**
     * Have a task stored for each row, all or none, and return the handle of the batch.
     *
     * @param iterable<mixed> $rows the arguments of each task: a list, an array with names, or a single value
     * @param ?string $then a function that is called with the counts when all tasks have ended
     *
     * @throws Error
     */
    public function submitBatch(
        string $function,
        iterable $rows,
        ?string $then = null,
        ?float $timeout = null,
        ?int $priority = null,
        ?float $deadline = null,
        ?float $delay = null,
        ?int $retries = null,
        ?float $keep = null,
        ?string $token = null,
    ): Batch {
        $options = [
            'timeout' => $timeout,
            'priority' => $priority,
            'deadline' => $deadline,
            'delay' => $delay,
            'retries' => $retries,
            'keep' => $keep,
        ];
        $args = [];
        foreach ($rows as $row) {
            $args[] = Message::args(is_array($row) ? $row : [$row]);
        }
        $params = ['function' => $function, 'args' => $args, 'then' => $then];
        $answer = $this->store('taskd.submit_batch', $params, $options, $token);
        $joined = $answer['joined'] && $token !== null;
        return new Batch($this->link, $answer['batch'], (array) $answer['tasks'], $joined);
    }

    /**
     * @param array<string, mixed> $params
     * @param array<string, mixed> $options
     *
     * @return array<string, mixed>
     */
    private function store(string $method, array $params, array $options, ?string $token): array
    {
        $options = Message::given($options);
        $token ??= bin2hex(random_bytes(16));
        $params = Message::given($params + ['options' => $options ?: null, 'token' => $token]);
        return (array) $this->link->ask(Message::of($method, $params), true);
    }

    /** Return the handle of a stored task. */
    public function task(string $id): Task
    {
        return new Task($this->link, $id);
    }

    /** Return the handle of a batch; `tasks` is empty then. */
    public function batch(string $id): Batch
    {
        return new Batch($this->link, $id, []);
    }

    /**
     * Call a function for each row, and yield `[$row, $result]` in the order in which they end.
     *
     * A loop that is left early cancels what is in flight.
     *
     * @param iterable<mixed> $rows as for `submitBatch`; they are taken as they are needed
     * @param int $concurrency how many calls are in flight at a time
     * @param bool $returnExceptions whether an error takes the place of a result, and is not thrown
     *
     * @return \Generator<int, array{mixed, mixed}>
     *
     * @throws Error
     */
    public function map(
        string $function,
        iterable $rows,
        int $concurrency = 16,
        bool $returnExceptions = false,
        ?float $timeout = null,
        ?int $priority = null,
        ?float $deadline = null,
    ): \Generator {
        if ($concurrency < 1 || $concurrency > Link::MAX_IN_FLIGHT) {
            $most = Link::MAX_IN_FLIGHT;
            throw new \InvalidArgumentException("concurrency is from 1 to $most, not $concurrency");
        }
        $options = ['timeout' => $timeout, 'priority' => $priority, 'deadline' => $deadline];
        foreach ($this->link->map($function, $rows, $options, $concurrency) as [$row, $result, $error]) {
            if ($error !== null && !$returnExceptions) {
                throw $error;
            }
            yield [$row, $error ?? $result];
        }
    }

    /** Return "pong" if the server is there. */
    public function ping(): string
    {
        return $this->link->ask(Message::of('taskd.ping'), true);
    }

    /** @return array<mixed> what can be called, as `taskd.functions` describes it */
    public function functions(): array
    {
        return $this->link->ask(Message::of('taskd.functions'), true);
    }

    /** @return array<string, mixed> the answer to `taskd.status` */
    public function status(): array
    {
        return (array) $this->link->ask(Message::of('taskd.status'), true);
    }

    /** Close the connections that are kept; a later call makes a new one. */
    public function close(): void
    {
        $this->link->close();
    }
}

/** What the handles of tasks and batches have in common. */
abstract class Handle
{
    protected const KIND = 'task';

    /** The states in which something may still happen. */
    private const UNFINISHED = ['scheduled', 'waiting', 'running'];

    /** The events after which nothing happens by itself. */
    private const LAST = ['succeeded', 'cancelled', 'expired', 'ended', 'failed', 'set_aside'];

    public function __construct(protected readonly Link $link, public readonly string $id)
    {
    }

    /** Return the state, like `running` or `succeeded`. */
    public function state(): string
    {
        return $this->get()['state'];
    }

    /** @return array<string, mixed> all that the server shows of it, as docs/protocol.md describes it */
    public function get(): array
    {
        return (array) $this->link->ask(Message::of('taskd.get', [static::KIND => $this->id]), true);
    }

    /**
     * Yield its events, those of the past first, until the last one.
     *
     * A lost connection is made again, and no event is left out or given twice.
     *
     * @param int $after the `seq` of the last event that is known; -1 leaves out the past
     *
     * @return \Generator<int, Event>
     *
     * @throws Error
     */
    public function events(int $after = 0): \Generator
    {
        $attach = fn (int $after) => Message::of('taskd.attach', [static::KIND => $this->id, 'after' => $after]);
        $last = 0; // of the log, when the connection was made
        foreach ($this->link->watch($attach, $after) as $news) {
            if (!$news instanceof Event) {
                $last = $news['seq'];
                if ($last <= $after || $after < 0) {
                    if (!in_array($news['state'], self::UNFINISHED, true)) {
                        return;
                    }
                    $after = max($after, $last);
                }
                continue;
            }
            $after = max($after, $news->seq);
            yield $news;
            // A task that has failed may have been put back, as the rest of its log says then.
            if ($news->event === 'detached' || $after >= $last && in_array($news->event, self::LAST, true)) {
                return;
            }
        }
    }

    /** Cancel it, and return what it was: `scheduled`, `waiting`, `running` or `done`. */
    public function cancel(): string
    {
        $answer = $this->link->ask(Message::of('taskd.cancel', ['task' => $this->id]), false);
        return ((array) $answer)['was'];
    }

    /**
     * @return array<string, mixed> what `get` returns, once it has ended
     */
    protected function wait(?float $timeout): array
    {
        $ending = $timeout === null ? INF : Link::now() + $timeout;
        do {
            $left = is_infinite($ending) ? null : max(0.0, $ending - Link::now());
            $params = Message::given([static::KIND => $this->id, 'timeout' => $left]);
            $answer = (array) $this->link->ask(Message::of('taskd.wait', $params), true);
            if (!in_array($answer['state'], self::UNFINISHED, true)) {
                return $answer;
            }
        } while (Link::now() < $ending);
        $kind = static::KIND;
        throw new WaitTimeout("the $kind has not ended within $timeout s; it goes on", ['seconds' => $timeout]);
    }
}

/** A stored task. `joined` is true if it had been there before. */
final class Task extends Handle
{
    public function __construct(Link $link, string $id, public readonly bool $joined = false)
    {
        parent::__construct($link, $id);
    }

    /**
     * Wait until it has ended, and return its result; its error is thrown.
     *
     * @param ?float $timeout seconds, after which `WaitTimeout` is thrown; the task goes on
     *
     * @throws Error
     */
    public function result(?float $timeout = null): mixed
    {
        $answer = $this->wait($timeout);
        if ($answer['state'] !== 'succeeded') {
            $message = "the task {$this->id} is {$answer['state']}";
            // A task that was never started has no error of its own.
            throw isset($answer['error']) ? Error::of($answer['error']) : match ($answer['state']) {
                'cancelled' => new Cancelled($message),
                'expired' => new TimedOut($message),
                default => new Error($message),
            };
        }
        return $answer['result'] ?? null;
    }

    /** Have a task that failed or was set aside wait again; return what it was. */
    public function retry(): string
    {
        $answer = $this->link->ask(Message::of('taskd.retry', ['task' => $this->id]), false);
        return ((array) $answer)['was'];
    }

    /** @return array<string, mixed> what holds it, as `taskd.why` answers; `reason` is for people */
    public function why(): array
    {
        return (array) $this->link->ask(Message::of('taskd.why', ['task' => $this->id]), true);
    }
}

/** Stored tasks that were submitted together. */
final class Batch extends Handle
{
    protected const KIND = 'batch';

    /** @param list<string> $tasks the ids of its tasks */
    public function __construct(
        Link $link,
        string $id,
        public readonly array $tasks,
        public readonly bool $joined = false,
    ) {
        parent::__construct($link, $id);
    }

    /**
     * Wait until all have ended; return `done`, `failed`, `cancelled`, `total` and `state`.
     *
     * @return array<string, mixed>
     *
     * @throws Error
     */
    public function result(?float $timeout = null): array
    {
        $members = ['done', 'failed', 'cancelled', 'total', 'state'];
        return array_intersect_key($this->wait($timeout), array_flip($members));
    }
}

// --- inside ------------------------------------------------------------------

/** @internal A request, and how it is written with an id. */
final class Message
{
    private const FLAGS = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION
        | JSON_THROW_ON_ERROR;

    private function __construct(private readonly string $rest)
    {
    }

    /**
     * @param array<mixed> $params
     * @param array<string, mixed> $options
     */
    public static function of(string $method, array $params = [], array $options = []): self
    {
        $members = ['method' => $method];
        if ($params !== []) {
            $members['params'] = self::args($params);
        }
        $options = self::given($options);
        if ($options !== []) {
            $members['options'] = $options;
        }
        try {
            return new self(substr(json_encode($members, self::FLAGS), 1) . "\n");
        } catch (\JsonException $error) {
            throw new \InvalidArgumentException(
                "the arguments of $method cannot be written as JSON: {$error->getMessage()}",
                previous: $error,
            );
        }
    }

    /**
     * Return arguments as they came, if they are a list or have names.
     *
     * @param array<mixed> $args
     *
     * @return array<mixed>
     */
    public static function args(array $args): array
    {
        if (!array_is_list($args)) {
            foreach (array_keys($args) as $name) {
                if (is_int($name)) {
                    throw new \InvalidArgumentException(
                        "arguments are a list, or have names: there is the number $name among the names",
                    );
                }
            }
        }
        return $args;
    }

    /**
     * Leave out what was not given.
     *
     * @param array<string, mixed> $members
     *
     * @return array<string, mixed>
     */
    public static function given(array $members): array
    {
        return array_filter($members, static fn ($value) => $value !== null);
    }

    /** Return the line of the request with this id; without one it is a notification. */
    public function line(int|string|null $id): string
    {
        $id = $id === null ? '' : '"id":' . json_encode($id) . ',';
        return '{"jsonrpc":"2.0",' . $id . $this->rest;
    }
}

/** @internal The token of a client: a text, or a function that returns one for each connection. */
final class Credentials
{
    /** Seconds before the end of a token at which another one is shown, or half of its time if that is less. */
    private const RENEW = 30.0;

    private function __construct(private readonly string|\Closure $token)
    {
    }

    public static function of(string|callable|null $token): ?self
    {
        if ($token === null) {
            return null;
        }
        // A text is a token, also if there is a function with that name.
        return new self(is_string($token) ? self::checked($token) : \Closure::fromCallable($token));
    }

    /** Return a token, which is never quoted. */
    private static function checked(mixed $token): string
    {
        if (is_string($token) && preg_match('/^[A-Za-z0-9_.~+-]+$/D', $token)) {
            return $token;
        }
        throw new \InvalidArgumentException('a token is a text of letters, digits and . _ ~ + -');
    }

    /** Return whether there is another token when one has expired. */
    public function isRenewable(): bool
    {
        return $this->token instanceof \Closure;
    }

    /** Return the request that shows a token. */
    public function line(): string
    {
        $token = is_string($this->token) ? $this->token : self::checked(($this->token)());
        return Message::of('taskd.auth', ['token' => $token])->line('auth');
    }

    /** Return the seconds until another token should be shown, if the last one expires at this time, since 1970. */
    public function renewsIn(int|float|null $expires): ?float
    {
        if ($expires === null || !$this->isRenewable()) {
            return null;
        }
        $left = $expires - microtime(true);
        return $left > 0 ? max($left - self::RENEW, $left / 2) : null; // else the clocks differ
    }
}

/** @internal A connection is lost. */
final class Lost extends \Exception
{
    public function __construct(string $reason, public readonly bool $isFinal = false)
    {
        parent::__construct($reason);
    }
}

/** @internal The connections to a server, and what is asked over them. */
final class Link
{
    /** Requests that a server takes from a connection before it has answered. */
    public const MAX_IN_FLIGHT = 1000;

    /** Connections that are kept although nothing is in flight: nested calls need more than one. */
    private const MAX_IDLE = 4;

    /** Seconds between two attempts to connect: a server that restarts is found soon, at little cost. */
    private const PAUSE = 0.05;

    /** @var list<Connection> */
    private array $idle = [];

    public function __construct(
        private readonly Address $address,
        private readonly float $connectTimeout,
        private readonly bool $objects,
        private readonly ?Credentials $credentials = null,
    ) {
    }

    /** Return whether a call was refused, and not run, because of a token that has expired, and there is another. */
    private function mayRenew(NotAllowed $error): bool
    {
        return $this->credentials?->isRenewable() && ($error->data['reason'] ?? null) === 'expired';
    }

    /** Return the seconds of a clock that only goes forward. */
    public static function now(): float
    {
        return hrtime(true) / 1e9;
    }

    /**
     * Send a request, and return its result.
     *
     * It is sent on another connection if it was not sent on the first, and if
     * `$again` (it changes nothing, or can be sent twice) in any case, also if the
     * server has refused it because it shuts down. What is refused, and so not run, since the token has
     * expired, is sent once more.
     */
    public function ask(Message $message, bool $again, ?float $wait = null, ?callable $onProgress = null): mixed
    {
        $ending = $wait === null ? INF : self::now() + $wait;
        $until = self::now() + $this->connectTimeout;
        $refused = null;
        $hasRenewed = false;
        while (true) {
            $connection = $this->take(min($until, $ending));
            $id = $connection->send($message);
            try {
                return $this->await($connection, $id, $ending, $wait, $onProgress);
            } catch (Lost $lost) {
                $sent = $connection->wasSent($id);
                if ($sent && $again) {
                    $until = self::now() + $this->connectTimeout;
                } elseif ($sent || self::now() >= $until) {
                    throw $this->unreachable($lost->getMessage(), $sent);
                }
                self::pause(self::PAUSE);
            } catch (NotAllowed $error) {
                if ($hasRenewed || !$this->mayRenew($error)) {
                    throw $error;
                }
                $hasRenewed = true;
                $connection->close();
            } catch (ShuttingDown $error) {
                // A server that stops answers so what can be asked again after its next start.
                $refused ??= self::now();
                if (!$again || self::now() >= $refused + $this->connectTimeout) {
                    throw $error;
                }
                $until = $refused + $this->connectTimeout;
                self::pause(self::PAUSE);
            }
        }
    }

    private function await(
        Connection $connection,
        int $id,
        float $ending,
        ?float $wait,
        ?callable $onProgress,
    ): mixed {
        $isOver = false;
        try {
            while (true) {
                $received = $connection->receive($ending);
                if ($received === []) {
                    $connection->abandon($id);
                    $isOver = true;
                    $this->keep($connection);
                    throw self::waited($wait);
                }
                foreach ($received as $reply) {
                    if (($reply['id'] ?? null) === $id) {
                        $isOver = true;
                        $this->keep($connection);
                        return self::resultOf($reply);
                    }
                    if (isset($reply['method'])) {
                        $this->progressed($reply, $id, $onProgress);
                    } elseif (isset($reply['error']) && !isset($reply['id'])) {
                        $isOver = true;
                        $connection->close();
                        throw Error::of($reply['error']);
                    }
                }
            }
        } catch (Lost $lost) {
            $isOver = true;
            throw $lost;
        } finally {
            // The callback, or the handler of a signal, has thrown something.
            if (!$isOver && !$connection->isRefused()) {
                $connection->abandon($id);
                $this->keep($connection);
            }
        }
    }

    /** @param array<string, mixed> $message */
    private function progressed(array $message, int $id, ?callable $onProgress): void
    {
        $params = (array) ($message['params'] ?? []);
        if ($onProgress !== null && $message['method'] === 'taskd.progress' && ($params['id'] ?? null) === $id) {
            $onProgress(new Progress($params['done'], $params['total'] ?? null, $params['message'] ?? null));
        }
    }

    /** @param array<string, mixed> $reply */
    private static function resultOf(array $reply): mixed
    {
        if (isset($reply['error'])) {
            throw Error::of($reply['error']);
        }
        return $reply['result'] ?? null;
    }

    /**
     * Yield `[$row, $result, $error]` for each row, as they end.
     *
     * @param iterable<mixed> $rows
     * @param array<string, mixed> $options
     */
    public function map(string $function, iterable $rows, array $options, int $concurrency): \Generator
    {
        $rows = (static fn () => yield from $rows)();
        $inFlight = $unsent = [];
        $connection = null;
        $until = null; // when to give up what could not be sent; null while all is well
        $hasRenewed = false;
        try {
            while (true) {
                while (count($inFlight) < $concurrency && ($unsent !== [] || $rows->valid())) {
                    if ($unsent !== []) {
                        $row = array_shift($unsent);
                    } else {
                        $row = $rows->current();
                        $rows->next();
                    }
                    $message = Message::of($function, is_array($row) ? $row : [$row], $options);
                    try {
                        $connection ??= $this->take($until ?? self::now() + $this->connectTimeout);
                        $inFlight[$connection->send($message)] = $row;
                    } catch (Unreachable $error) {
                        $until = self::now();
                        yield [$row, null, $error];
                    }
                }
                if ($inFlight === []) {
                    return;
                }
                try {
                    $received = $connection->receive(INF);
                } catch (Lost $lost) {
                    $until ??= self::now() + $this->connectTimeout;
                    $lostRows = $inFlight;
                    $inFlight = [];
                    foreach ($lostRows as $id => $row) {
                        $sent = $connection->wasSent($id);
                        if ($sent || self::now() >= $until) {
                            yield [$row, null, $this->unreachable($lost->getMessage(), $sent)];
                        } else {
                            $unsent[] = $row;
                        }
                    }
                    $connection = null;
                    self::pause(self::PAUSE);
                    continue;
                } catch (NotAllowed $refusal) {
                    $refusedRows = $inFlight;
                    $inFlight = [];
                    $connection = null;
                    if ($hasRenewed || !$this->mayRenew($refusal)) {
                        foreach ($refusedRows as $row) {
                            yield [$row, null, $refusal];
                        }
                    } else {
                        $hasRenewed = true;
                        array_push($unsent, ...array_values($refusedRows));
                    }
                    continue;
                }
                $until = null;
                $hasRenewed = false;
                foreach ($received as $reply) {
                    // An error without an id is about the first message that has not been answered.
                    $id = $reply['id'] ?? (isset($reply['error']) ? array_key_first($inFlight) : null);
                    if ($id === null || !array_key_exists($id, $inFlight)) {
                        continue;
                    }
                    $row = $inFlight[$id];
                    unset($inFlight[$id]);
                    $error = isset($reply['error']) ? Error::of($reply['error']) : null;
                    yield [$row, $reply['result'] ?? null, $error];
                }
            }
        } finally {
            if ($connection !== null) {
                foreach (array_keys($inFlight) as $id) {
                    $connection->abandon($id);
                }
                $this->keep($connection);
            }
        }
    }

    /**
     * Attach to a task, again if the connection is lost; yield each answer, an array, and each event.
     *
     * @param callable(int): Message $attach
     *
     * @return \Generator<int, Event|array<string, mixed>>
     */
    public function watch(callable $attach, int $after): \Generator
    {
        $hasRenewed = false;
        while (true) {
            $connection = $this->take(self::now() + $this->connectTimeout);
            try {
                $id = $connection->send($attach($after));
                while (true) {
                    foreach ($connection->receive(INF) as $message) {
                        if (($message['id'] ?? null) === $id) {
                            $answer = (array) self::resultOf($message);
                            $after = $after < 0 ? $answer['seq'] : $after;
                            $hasRenewed = false;
                            yield $answer;
                        } elseif (($message['method'] ?? null) === 'taskd.event') {
                            $event = self::eventOf((array) $message['params']);
                            if ($event->seq > $after || $event->event === 'detached') {
                                $after = max($after, $event->seq);
                                yield $event;
                            }
                        } elseif (isset($message['error'])) {
                            throw Error::of($message['error']);
                        }
                    }
                }
            } catch (Lost) {
                self::pause(self::PAUSE);
            } catch (NotAllowed $error) {
                if ($hasRenewed || !$this->mayRenew($error)) {
                    throw $error;
                }
                $hasRenewed = true;
            } finally {
                // The server goes on to push events, until the connection has ended.
                $connection->close();
            }
        }
    }

    /** @param array<string, mixed> $params */
    private static function eventOf(array $params): Event
    {
        $data = array_diff_key($params, array_flip(['task', 'batch', 'seq', 'event', 'at']));
        return new Event((int) ($params['seq'] ?? 0), $params['event'], (float) ($params['at'] ?? 0), $data);
    }

    /**
     * Return a connection on which nothing is in flight, a new one if there is none.
     *
     * @throws Unreachable if there is none by `$until`
     */
    private function take(float $until): Connection
    {
        while ($connection = array_pop($this->idle)) {
            if ($connection->isUsable()) {
                return $connection;
            }
        }
        while (true) {
            try {
                $left = max(self::PAUSE, $until - self::now());
                return Connection::open($this->address, $left, $this->objects, $this->credentials);
            } catch (Lost $lost) {
                if ($lost->isFinal || self::now() + self::PAUSE >= $until) {
                    throw $this->unreachable($lost->getMessage(), false);
                }
            }
            self::pause(self::PAUSE);
        }
    }

    private function keep(Connection $connection): void
    {
        if (count($this->idle) < self::MAX_IDLE) {
            $this->idle[] = $connection;
        } else {
            $connection->close();
        }
    }

    public function close(): void
    {
        foreach ($this->idle as $connection) {
            $connection->close();
        }
        $this->idle = [];
    }

    private function unreachable(string $reason, bool $sent): Unreachable
    {
        $server = $this->address->name;
        $what = $sent ? 'was lost before it answered; the task may have run' : 'cannot be reached';
        return new Unreachable("the task server $server $what: $reason", ['server' => $server, 'sent' => $sent]);
    }

    private static function waited(?float $wait): WaitTimeout
    {
        return new WaitTimeout("there was no reply within $wait s; the task was cancelled", ['seconds' => $wait]);
    }

    private static function pause(float $seconds): void
    {
        usleep((int) ($seconds * 1e6));
    }
}

/** @internal One connection: lines out, messages in, and a heartbeat while somebody waits. */
final class Connection
{
    /** Seconds without traffic after which a ping is sent: proxies cut what is silent for longer, often 5 s or more. */
    private const HEARTBEAT = 2.0;

    /** Seconds without any answer to a ping after which the connection counts as lost. */
    private const NO_ANSWER = 10.0;

    /** Bytes that are read or written at a time. */
    private const CHUNK = 262144;

    private const PING = '{"jsonrpc":"2.0","id":"ping","method":"taskd.ping"}' . "\n";

    private readonly int $pid;

    /** What was received of lines that are not complete, or not decoded yet: from `$at` on. */
    private string $in = '';
    private int $at = 0;

    /** How far the incomplete line has been searched for its end. */
    private int $searched = 0;

    /** What is to be sent: from `$outAt` on. */
    private string $out = '';
    private int $outAt = 0;

    /** Bytes that were queued, and that the kernel has taken, since the start. */
    private int $queued = 0;
    private int $written = 0;

    /** @var array<int, int> where the line of each request in flight ends */
    private array $ends = [];

    /** @var array<int, true> requests whose replies nobody waits for */
    private array $abandoned = [];

    private int $lastId = 0;
    private float $lastSent;
    private float $lastReceived;
    private ?float $pinged = null;

    /** Why there is no more to come; null while there may be. */
    private ?string $end = null;

    /** Why the server refuses the token, and runs nothing that was sent behind it. */
    private ?Error $refusal = null;

    /** Whether it has accepted one, and when another should be shown. */
    private bool $wasAccepted = false;
    private ?float $renewsAt = null;

    /** @param resource $stream */
    private function __construct(
        private $stream,
        private readonly bool $objects,
        private readonly ?Credentials $credentials,
    ) {
        $this->pid = getmypid();
        $this->lastSent = $this->lastReceived = Link::now();
    }

    /**
     * Open a connection; a token is sent ahead of the first request, without waiting for the answer.
     *
     * @throws Lost
     */
    public static function open(Address $address, float $timeout, bool $objects, ?Credentials $credentials): self
    {
        $shown = $credentials?->line();
        $context = stream_context_create(['socket' => ['tcp_nodelay' => true], 'ssl' => $address->tls ?? []]);
        $flags = STREAM_CLIENT_CONNECT;
        $ending = Link::now() + $timeout;
        $warnings = '';
        set_error_handler(static function (int $_, string $text) use (&$warnings): bool {
            $warnings .= preg_replace('/\s+/', ' ', "$text; ");
            return true;
        });
        try {
            $stream = stream_socket_client($address->target, $_, $reason, $timeout, $flags, $context);
            if ($stream === false) {
                throw new Lost($reason ?: rtrim($warnings, '; '));
            }
            stream_set_blocking($stream, false);
            stream_set_read_buffer($stream, 0);
            stream_set_chunk_size($stream, self::CHUNK);
            if ($address->tls !== null) {
                self::encrypt($stream, $ending, $warnings);
            }
        } finally {
            restore_error_handler();
        }
        $connection = new self($stream, $objects, $credentials);
        if ($shown !== null) {
            $connection->queue($shown);
        }
        return $connection;
    }

    /** Return whether the server has refused the token. */
    public function isRefused(): bool
    {
        return $this->refusal !== null;
    }

    /**
     * Take the answer to a token. A server that knows none needs none, and one that was accepted remains so.
     *
     * @param array<string, mixed> $message
     */
    private function answered(array $message): void
    {
        if (!isset($message['error'])) {
            $this->wasAccepted = true;
            $seconds = $this->credentials?->renewsIn(((array) ($message['result'] ?? []))['expires'] ?? null);
            $this->renewsAt = $seconds === null ? null : Link::now() + $seconds;
            return;
        }
        $error = Error::of($message['error']);
        if (!$this->wasAccepted && !$error instanceof MethodNotFound) {
            $this->refusal = $error;
        }
    }

    /**
     * @param resource $stream
     *
     * @throws Lost
     */
    private static function encrypt($stream, float $ending, string &$warnings): void
    {
        while (($done = stream_socket_enable_crypto($stream, true, STREAM_CRYPTO_METHOD_TLS_CLIENT)) === 0) {
            $left = $ending - Link::now();
            if ($left <= 0) {
                throw new Lost('no answer to the TLS handshake in time');
            }
            self::select($stream, false, $left);
        }
        if ($done === false) {
            // A server that stops may cut a handshake; a certificate that is wrong remains so.
            $isFinal = preg_match('/certificate|match|wrong version|alert/i', $warnings) === 1;
            throw new Lost(rtrim($warnings, '; '), $isFinal);
        }
    }

    /** Queue a request, and return its id; `receive` sends it. */
    public function send(Message $message): int
    {
        $id = ++$this->lastId;
        $this->queue($message->line($id));
        $this->ends[$id] = $this->queued;
        return $id;
    }

    private function queue(string $line): void
    {
        $this->out = $this->outAt === strlen($this->out) ? $line : substr($this->out, $this->outAt) . $line;
        $this->outAt = 0;
        $this->queued += strlen($line);
    }

    /** Return whether the whole request has left: the server runs nothing of an incomplete one. */
    public function wasSent(int $id): bool
    {
        return $this->written >= ($this->ends[$id] ?? 0);
    }

    /** Have the task of a request cancelled, and drop its reply. */
    public function abandon(int $id): void
    {
        unset($this->ends[$id]);
        $this->abandoned[$id] = true;
        $this->queue(Message::of('taskd.cancel', ['id' => $id])->line(null));
        $this->write();
    }

    /** Return whether another request can be sent here, as far as can be known. */
    public function isUsable(): bool
    {
        if ($this->pid !== getmypid()) {
            return false;
        }
        $this->read();
        if ($this->messages() !== [] || $this->end !== null) {
            $this->close();
            return false;
        }
        $this->pinged = null;
        $this->lastSent = $this->lastReceived = Link::now();
        return true;
    }

    /**
     * Return what has arrived, at least one message; nothing if `$until` is over.
     *
     * @return list<array<string, mixed>>
     *
     * @throws Lost
     * @throws NotAllowed if the token is refused
     */
    public function receive(float $until): array
    {
        $this->write();
        while (($messages = $this->messages()) === [] || $this->refusal !== null) {
            if ($this->refusal !== null) {
                $this->close();
                throw $this->refusal;
            }
            if ($this->end !== null) {
                $this->close();
                throw new Lost($this->end);
            }
            $now = Link::now();
            if ($now >= $until) {
                return [];
            }
            if ($this->renewsAt !== null && $now >= $this->renewsAt) {
                $this->renewsAt = null;
                $this->queue($this->credentials->line());
            }
            $wake = min($this->beat($now), $this->renewsAt ?? INF);
            $hasMore = $this->outAt < strlen($this->out);
            self::select($this->stream, $hasMore, min($until, $wake) - $now);
            if ($hasMore) {
                $this->write();
            }
            $this->read();
        }
        return $messages;
    }

    /** Send a ping if one is due; return when to look again. */
    private function beat(float $now): float
    {
        if ($this->pinged !== null) {
            if ($now >= $this->pinged + self::NO_ANSWER) {
                $this->end = 'it did not answer a ping for ' . self::NO_ANSWER . ' s';
                return $now;
            }
            return $this->pinged + self::NO_ANSWER;
        }
        $due = min($this->lastSent, $this->lastReceived) + self::HEARTBEAT;
        if ($now < $due) {
            return $due;
        }
        if ($this->outAt === strlen($this->out)) {
            $this->queue(self::PING);
            $this->write();
        }
        $this->pinged = $now;
        return $now + self::NO_ANSWER;
    }

    /** @param resource $stream */
    private static function select($stream, bool $toWrite, float $seconds): void
    {
        $read = [$stream];
        $write = $toWrite ? [$stream] : [];
        $except = [];
        $seconds = max(0.0, min($seconds, 60.0));
        // It fails if a signal comes; then the caller looks again.
        @stream_select($read, $write, $except, (int) $seconds, (int) (fmod($seconds, 1) * 1e6) + 1);
    }

    private function write(): void
    {
        while ($this->end === null && $this->outAt < strlen($this->out)) {
            error_clear_last();
            $count = @fwrite($this->stream, substr($this->out, $this->outAt, self::CHUNK));
            if ($count === false) {
                $reason = self::lastError();
                $this->read(); // the server may have sent the reason before it closed
                $this->end ??= $reason;
                return;
            }
            if ($count === 0) {
                return;
            }
            $this->outAt += $count;
            $this->written += $count;
            $this->lastSent = Link::now();
        }
        $this->out = '';
        $this->outAt = 0;
    }

    private function read(): void
    {
        while ($this->end === null) {
            error_clear_last();
            $data = @fread($this->stream, self::CHUNK);
            if ($data === false || $data === '') {
                if (feof($this->stream)) {
                    $this->end = self::lastError();
                }
                return;
            }
            $this->in .= $data;
            $this->pinged = null;
            $this->lastReceived = Link::now();
        }
    }

    private static function lastError(): string
    {
        $text = error_get_last()['message'] ?? 'the server closed the connection';
        return preg_replace('/\s+/', ' ', $text);
    }

    /**
     * Take the messages that are complete, except what nobody waits for.
     *
     * @return list<array<string, mixed>>
     */
    private function messages(): array
    {
        $messages = [];
        while (($lineEnd = strpos($this->in, "\n", $this->searched)) !== false) {
            $line = substr($this->in, $this->at, $lineEnd - $this->at);
            $this->at = $this->searched = $lineEnd + 1;
            try {
                $message = json_decode($line, !$this->objects, 512, JSON_BIGINT_AS_STRING | JSON_THROW_ON_ERROR);
            } catch (\JsonException) {
                $message = null;
            }
            $message = is_array($message) || is_object($message) ? (array) $message : [];
            if (($message['jsonrpc'] ?? null) !== '2.0') {
                $this->end = 'it does not speak the protocol of taskd';
                break;
            }
            $id = $message['id'] ?? null;
            unset($this->ends[$id ?? '']);
            if ($id === 'ping' || is_int($id) && isset($this->abandoned[$id])) {
                unset($this->abandoned[$id]);
                continue;
            }
            if ($id === 'auth') {
                $this->answered($message);
                continue;
            }
            $messages[] = $message;
        }
        $this->in = $this->at === 0 ? $this->in : substr($this->in, $this->at);
        $this->at = 0;
        $this->searched = strlen($this->in);
        return $messages;
    }

    public function close(): void
    {
        $this->end ??= 'the connection was closed here';
        if (is_resource($this->stream)) {
            fclose($this->stream);
        }
    }
}

/** @internal Where a server is: what PHP's streams call it, and the options of TLS. */
final class Address
{
    public const DEFAULT = '127.0.0.1:12345';

    private const FORMS = 'write HOST:PORT, unix:PATH or tls:HOST:PORT';

    /** @param ?array<string, mixed> $tls options of a stream's context, null without TLS */
    private function __construct(
        public readonly string $name,
        public readonly string $target,
        public readonly ?array $tls = null,
    ) {
    }

    /** Return the address that a text means. Throws `InvalidArgumentException` with the reason if it is none. */
    public static function of(string $text): self
    {
        $text = trim($text);
        if (preg_match('~^\.{0,2}/[^/]~', $text)) {
            return new self($text, "unix://$text");
        }
        if (preg_match('~^unix:(?://)?(.+)$~i', $text, $match)) {
            // As in endpoint strings, a backslash quotes, and options follow a colon.
            [$path] = self::parts($match[1]);
            return new self($text, "unix://$path");
        }
        if (preg_match('~^(wss?|https?)://~i', $text)) {
            throw self::wrong($text, 'it is the address of a gateway, and this client needs a task server');
        }
        $text = preg_replace('~^(tcp|tls|ssl)://(.*?)/?$~i', '$1:$2', $text);
        $kind = 'tcp';
        if (preg_match('~^(tcp|tls|ssl):(.*)$~is', $text, $match)) {
            [, $kind, $rest] = $match;
        } else {
            $rest = $text;
        }
        if (preg_match('~^\[([0-9a-f:.]+)\]:(.*)$~i', $rest, $match)) {
            $options = self::parts($match[2]);
            array_unshift($options, $match[1]);
        } else {
            $options = self::parts(ctype_digit($rest) ? ":$rest" : $rest);
        }
        [$host, $port] = [array_shift($options), array_shift($options) ?? ''];
        $isTls = strtolower($kind) !== 'tcp';
        if (!ctype_digit($port) || $port < 1 || $port > 65535) {
            throw self::wrong($text, $port === '' ? 'it has no port' : "its port must be from 1 to 65535, not $port");
        }
        if ($host === '' && $isTls) {
            throw self::wrong($text, 'it has no host, whose name the certificate must have');
        }
        $host = $host === '' ? '127.0.0.1' : $host;
        $target = str_contains($host, ':') ? "tcp://[$host]:$port" : "tcp://$host:$port";
        $settings = [];
        foreach ($options as $option) {
            [$name, $value] = explode('=', $option, 2) + [1 => ''];
            $settings[$name] = $value;
        }
        return new self($text, $target, $isTls ? self::tls($text, $host, $settings) : null);
    }

    /** @return list<string> the parts between colons; a backslash quotes one */
    private static function parts(string $text): array
    {
        preg_match_all('~(?:^|:)((?:\\\\.|[^:\\\\])*)~s', $text, $match);
        return array_map(static fn (string $part) => preg_replace('~\\\\(.)~s', '$1', $part), $match[1]);
    }

    /**
     * @param array<string, string> $settings
     *
     * @return array<string, mixed>
     */
    private static function tls(string $text, string $host, array $settings): array
    {
        if (!extension_loaded('openssl')) {
            throw self::wrong($text, 'this PHP has no openssl, which TLS needs');
        }
        $tls = ['verify_peer' => true, 'verify_peer_name' => true, 'peer_name' => $host];
        $names = ['trustRoots' => 'cafile', 'certificate' => 'local_cert', 'privateKey' => 'local_pk'];
        foreach ($settings as $name => $value) {
            if (!isset($names[$name])) {
                throw self::wrong($text, "$name is none of the options " . implode(', ', array_keys($names)));
            }
            if (!is_file($value) || !is_readable($value)) {
                throw self::wrong($text, "$name=$value is no file that can be read");
            }
            $tls[$names[$name]] = $value;
        }
        return $tls;
    }

    private static function wrong(string $text, string $reason): \InvalidArgumentException
    {
        return new \InvalidArgumentException("the address $text: $reason; " . self::FORMS);
    }
}
