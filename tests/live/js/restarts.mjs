/**
 * What a program does while its server is restarted: it follows a report, and calls and submits all the time.
 *
 * `connect` is that of the client. `state.chapters` counts the chapters of the report that have come, `state.ends`
 * what has ended since the last restart; `state.report` is there when the report has ended.
 */
export async function keepGoing(connect, url, options, state) {
  const taskd = connect(url, options);
  const calls = [];
  const submits = [];
  let isOver = false;

  async function callOn(first) {
    for (let number = first; !isOver; number += 10) {
      const call = await taskd.call("plain", [number]).then(
        result => ({ number, result }),
        ({ code, sent }) => ({ number, code, sent }),
      );
      calls.push(call);
      state.calls = calls.length;
      await new Promise(resolve => setTimeout(resolve, 5));
    }
  }

  async function submitOn(first) {
    for (let number = first; !isOver; number += 10) {
      const task = await taskd.submit("mark", { number });
      submits.push({ number, id: task.id, result: await task.result() });
      state.submits = submits.length;
      await new Promise(resolve => setTimeout(resolve, 5));
    }
  }

  const going = [callOn(1), callOn(2), callOn(3), submitOn(1), submitOn(2), submitOn(3)];
  const task = await taskd.submit("report");
  const events = [];
  for await (const event of task.events()) {
    events.push(event);
    if (event.event === "partial") state.chapters = (state.chapters ?? 0) + 1;
  }
  isOver = true;
  await Promise.all(going);
  const again = [];
  for await (const event of taskd.attach(task.id)) again.push(event);
  state.report = { id: task.id, events, again, calls, submits };
  taskd.close();
}
