<?php
// Finds Workerman's classes in the checkouts that WORKERMAN_DIR and
// WORKERMAN_COROUTINE_DIR name; its own files go to WORKERMAN_FILES.

spl_autoload_register(function (string $class): void {
    if (!str_starts_with($class, 'Workerman\\')) {
        return;
    }
    $path = str_replace('\\', '/', substr($class, strlen('Workerman\\'))) . '.php';
    $candidates = [
        getenv('WORKERMAN_DIR') . "/src/$path",
        getenv('WORKERMAN_COROUTINE_DIR') . "/src/$path",
        getenv('WORKERMAN_COROUTINE_DIR') . '/src/' . preg_replace('~^Coroutine/~', '', $path),
    ];
    foreach ($candidates as $file) {
        if (is_file($file)) {
            require_once $file;
            return;
        }
    }
});

$files = getenv('WORKERMAN_FILES') . '/' . basename($_SERVER['SCRIPT_NAME'], '.php');
Workerman\Worker::$pidFile = "$files.pid";
Workerman\Worker::$statusFile = "$files.status";
Workerman\Worker::$logFile = "$files.log";
