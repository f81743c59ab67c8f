"""The app itself: its receivers of Django's signals, which note what they receive in the database."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self) -> None:
        from shop.models import Note
        from shop.tasks import signals

        def note(kind: str, task_result: object) -> None:
            text = f"{kind} {task_result.status} {task_result.attempts} {len(task_result.errors)}"
            Note.objects.create(key=task_result.id, text=text)

        def enqueued(task_result: object, **_: object) -> None:
            note("enqueued", task_result)

        def started(task_result: object, **_: object) -> None:
            note("started", task_result)

        def finished(task_result: object, **_: object) -> None:
            note("finished", task_result)

        for signal, receiver in (
            (signals.task_enqueued, enqueued),
            (signals.task_started, started),
            (signals.task_finished, finished),
        ):
            signal.connect(receiver, weak=False, dispatch_uid=receiver.__name__)
