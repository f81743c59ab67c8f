<?php
// The page's task service: a message is a line of JSON, and so is its result.

use Workerman\Connection\TcpConnection;
use Workerman\Worker;

require_once __DIR__ . '/autoload.php';

$task_worker = new Worker('Text://127.0.0.1:' . getenv('TASK_PORT'));
$task_worker->count = 4;
$task_worker->name = 'TaskWorker';
$task_worker->onMessage = function (TcpConnection $connection, $task_data) {
    $task_data = json_decode($task_data, true);
    $task_result = ['done' => $task_data['function'] ?? null, 'args' => $task_data['args'] ?? null];
    var_dump($task_result);
    $connection->send(json_encode($task_result));
};

Worker::runAll();
