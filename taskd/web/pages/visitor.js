/** The visitor's page. */
import { askToken, connectionNotice, fillTexts, showCaller } from "./shared/frame.js";
import { Session } from "./shared/session.js";

fillTexts();
const session = new Session({ askToken, onConnection: connectionNotice() });
await session.open();
showCaller(session);
