/** Right uses of the client, and wrong ones, which the types must refuse: tests/live/test_js_client.py. */

import { TaskdError, connect } from "./taskd.js";
import type { Batch, Client, Progress, Task, TaskEvent } from "./taskd.js";

const taskd: Client = connect("ws://127.0.0.1:8080", { connectTimeout: 5, onConnection: (is: boolean) => void is });

connect("/", { token: "taskd_text" });
connect("/", { token: () => sessionStorage["token"] as string | undefined });
connect("/", { token: async () => ((await fetch("/taskd-token")).ok ? "text" : null) });

export async function right(signal: AbortSignal): Promise<void> {
  const untyped: unknown = await taskd.call("hello");
  const text: string = await taskd.call<string>("hello", { name: "Ann" }, { timeout: 2, priority: 0, signal });
  await taskd.call("report", [1, "A4"], { onProgress: ({ done, total }: Progress) => done / (total ?? 1) });

  const task: Task<number> = await taskd.submit<number>("report", [1], { key: "k", at: new Date(), retries: 3 });
  const pages: number = (await task.result({ timeout: 60, signal })) + 1;
  for await (const event of task.events({ after: 7 })) {
    const seq: number = event.seq;
    if (event.event === "progress") void (event.done + seq);
    if (event.event === "failed") void event.error.message.length;
    if (event.event === "partial") void event.value;
  }
  const events: AsyncIterable<TaskEvent> = taskd.attach(task.id, { after: -1, signal });
  const batch: Batch = await taskd.submitBatch("mark", [[1], { n: 2 }], { then: "finish" });
  const { done, state } = await batch.result();
  if (state === "failed") void (done + (batch.tasks?.length ?? 0));
  const was: string = await taskd.task(task.id).cancel();
  void [untyped, text, pages, events, was, (await task.why()).reason];
  try {
    await taskd.batch("b1").result();
  } catch (error) {
    if (error instanceof TaskdError && error.sent === false) void (error.code + Number(error.data["retry_after"]));
  }
  taskd.close();
}

export async function wrong(): Promise<void> {
  // @ts-expect-error: arguments are an array or an object
  await taskd.call("hello", "Ann");
  // @ts-expect-error: a token is a text
  connect("/", { token: 5 });
  // @ts-expect-error: a call has no key
  await taskd.call("hello", [], { key: "k" });
  // @ts-expect-error: seconds are a number
  await taskd.call("hello", [], { timeout: "2" });
  // @ts-expect-error: a disconnect does one of two things
  await taskd.call("hello", [], { onDisconnect: "stop" });
  // @ts-expect-error: the result may be anything, unless its type is known
  (await taskd.call("hello")).length;
  // @ts-expect-error: a submit has no progress; its events have
  await taskd.submit("report", [], { onProgress: () => {} });
  // @ts-expect-error: the tasks of a batch have no key
  await taskd.submitBatch("mark", [[1]], { key: "k" });
  // @ts-expect-error: each row has arguments
  await taskd.submitBatch("mark", [1, 2]);
  // @ts-expect-error: there is no such state
  if ((await taskd.task("t1").state()) === "done") return;
  // @ts-expect-error: events are iterated, not awaited
  (await taskd.attach("t1")).length;
  for await (const event of taskd.attach("t1")) {
    // @ts-expect-error: only progress has a total
    void event.total;
  }
  // @ts-expect-error: there is no such option
  connect("ws://127.0.0.1:8080", { retries: 3 });
}
