<?php
// The websocket service: each message has a task done, over a connection of its own to the task service.

use Workerman\Connection\AsyncTcpConnection;
use Workerman\Connection\TcpConnection;
use Workerman\Worker;

require_once __DIR__ . '/autoload.php';

$worker = new Worker('websocket://127.0.0.1:' . getenv('WEBSOCKET_PORT'));
$worker->count = (int) getenv('COUNT');
$worker->onMessage = function (TcpConnection $client, string $message): void {
    $task = new AsyncTcpConnection('Text://127.0.0.1:' . getenv('TASK_PORT'));
    $task->onMessage = function (AsyncTcpConnection $task, string $result) use ($client): void {
        $task->close();
        $client->send('task complete');
    };
    $task->send($message);
    $task->connect();
};

Worker::runAll();
