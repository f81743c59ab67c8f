<?php
// The page's websocket service: each message has a task done, over a connection of its own.

use Workerman\Connection\AsyncTcpConnection;
use Workerman\Connection\TcpConnection;
use Workerman\Worker;

require_once __DIR__ . '/autoload.php';

$worker = new Worker('websocket://127.0.0.1:' . getenv('WEBSOCKET_PORT'));
$worker->onMessage = function (TcpConnection $ws_connection, $message) {
    $task_connection = new AsyncTcpConnection('Text://127.0.0.1:' . getenv('TASK_PORT'));
    $task_data = [
        'function' => 'send_mail',
        'args' => ['from' => 'xxx', 'to' => 'xxx', 'contents' => 'xxx'],
    ];
    $task_connection->send(json_encode($task_data));
    $task_connection->onMessage = function (AsyncTcpConnection $task_connection, $task_result) use ($ws_connection) {
        var_dump($task_result);
        $task_connection->close();
        $ws_connection->send('task complete');
    };
    $task_connection->connect();
};

Worker::runAll();
