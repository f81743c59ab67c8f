"""The views."""

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from shop.tasks import add


def enqueue(request: HttpRequest, a: int) -> JsonResponse:
    with transaction.atomic():
        result = add.enqueue(a, b=1)
    return JsonResponse({"id": result.id})


async def enqueue_async(request: HttpRequest, a: int) -> JsonResponse:
    result = await add.aenqueue(a, b=2)
    return JsonResponse({"id": result.id})


def show(request: HttpRequest, task: str) -> JsonResponse:
    result = add.get_result(task)
    value = result.return_value if result.is_finished else None
    return JsonResponse({"status": result.status, "value": value})


urlpatterns = [
    path("add/<int:a>", enqueue),
    path("add-async/<int:a>", enqueue_async),
    path("task/<str:task>", show),
]
