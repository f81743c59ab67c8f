<?php
// Stands in for Composer's autoloader: Workerman from WORKERMAN_DIR, and the
// coroutine package that it needs from WORKERMAN_COROUTINE_DIR. Its pid, status
// and log files go to the directory WORKERMAN_FILES.

spl_autoload_register(function (string $class): void {
    $workerman = getenv('WORKERMAN_DIR') . '/src/';
    $coroutine = getenv('WORKERMAN_COROUTINE_DIR') . '/src/';
    foreach (['Workerman\\Coroutine\\' => [$coroutine], 'Workerman\\' => [$workerman, $coroutine]] as $prefix => $places) {
        if (!str_starts_with($class, $prefix)) {
            continue;
        }
        foreach ($places as $place) {
            $file = $place . str_replace('\\', '/', substr($class, strlen($prefix))) . '.php';
            if (is_file($file)) {
                require_once $file;
                return;
            }
        }
    }
});

$files = getenv('WORKERMAN_FILES') . '/' . basename($_SERVER['SCRIPT_NAME'], '.php');
Workerman\Worker::$pidFile = "$files.pid";
Workerman\Worker::$statusFile = "$files.status";
Workerman\Worker::$logFile = "$files.log";
