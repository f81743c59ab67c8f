"""The settings of a small Django project, for the tests of the backend."""

import os

import django

SECRET_KEY = "no secret"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = ["shop", *(["django_tasks"] if django.VERSION < (6,) else [])]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": os.environ["SHOP_DATABASE"],
    "OPTIONS": {"timeout": 20},
}
DATABASES = {
    "default": _SQLITE,
    "closed": {**_SQLITE, "CONN_MAX_AGE": 0},
    "kept": {**_SQLITE, "CONN_MAX_AGE": None},
}
if "SHOP_POSTGRES" in os.environ:
    DATABASES["postgres"] = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["SHOP_POSTGRES"],
        "NAME": "postgres",
        "USER": "postgres",
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
    }

_TASKD = "taskd.contrib.django.TaskdBackend"
TASKS = {
    "default": {"BACKEND": _TASKD, "QUEUES": ["default", "mail"], "OPTIONS": {"modules": ["jobs"]}},
    "stubborn": {"BACKEND": _TASKD, "OPTIONS": {"retries": 1}},
    "hasty": {"BACKEND": _TASKD, "OPTIONS": {"timeout": 0.2}},
}
if "SHOP_POSTGRES" in os.environ:
    _WITHIN = {"server": os.environ["SHOP_SHARED"], "database": "postgres"}
    TASKS["within"] = {"BACKEND": _TASKD, "OPTIONS": _WITHIN}
