<?php
// The task service: COUNT processes, a line of JSON for each task and one for its result.

use Workerman\Connection\TcpConnection;
use Workerman\Worker;

require_once __DIR__ . '/autoload.php';

$tasks = [
    'echo' => fn(mixed $value): mixed => $value,
    'nap' => function (int $number, float $seconds): int {
        usleep((int) ($seconds * 1e6));
        return $number;
    },
];

$worker = new Worker('Text://127.0.0.1:' . getenv('TASK_PORT'));
$worker->count = (int) getenv('COUNT');
$worker->name = 'TaskWorker';
$worker->onMessage = function (TcpConnection $connection, string $line) use ($tasks): void {
    $request = json_decode($line, true);
    $connection->send(json_encode($tasks[$request['function']](...$request['args'])));
};

Worker::runAll();
