/** The operator's page. */
import { h } from "./shared/dom.js";
import { askToken, connectionNotice, fillTexts, showCaller } from "./shared/frame.js";
import { t } from "./shared/i18n.js";
import { Session } from "./shared/session.js";

fillTexts();
const session = new Session({ askToken, onConnection: connectionNotice() });
await session.open();
showCaller(session);
document.getElementById("main").append(h("h1", {}, t("ops.heading")));
