"""What a function returns is awaited if it can be."""

import asyncio
import functools

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.awaitables import is_async, may_be_async, must_await, settled


async def number():
    await asyncio.sleep(0)
    return 5


def plain():
    return 5


def generator():
    yield 1


async def async_generator():
    yield 1


class Service:
    async def __call__(self):
        return 5

    async def method(self):
        return 5


class Plain:
    def __call__(self):
        return 5


class Awaitable:
    def __await__(self):
        yield from ()
        return 5


def ordinary(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


class AwaitableTests(SynchronousTestCase):
    def test_an_async_function_is_known_in_whatever_form(self):
        for function in number, Service(), Service().method, functools.partial(number):
            self.assertTrue(is_async(function), function)
        for function in plain, Plain(), ordinary(number), len, lambda: number():
            self.assertFalse(is_async(function), function)

    def test_decorators_do_not_hide_that_a_function_may_be_async(self):
        for function in (
            number,
            Service(),
            ordinary(number),
            ordinary(ordinary(number)),
            functools.partial(ordinary(number)),
        ):
            self.assertTrue(may_be_async(function), function)
        for function in plain, ordinary(plain), len:
            self.assertFalse(may_be_async(function), function)

    def test_results_that_must_be_awaited_are_awaited_to_the_end(self):
        async def nested():
            return number()

        async def twice_nested():
            return nested()

        for result in number(), nested(), twice_nested(), Awaitable():
            self.assertTrue(must_await(result))
            self.assertEqual(asyncio.run(settled(result)), 5)

    def test_other_results_are_left_as_they_are(self):
        for result in None, 5, [number], object(), generator(), async_generator():
            self.assertFalse(must_await(result))
            self.assertIs(asyncio.run(settled(result)), result)
