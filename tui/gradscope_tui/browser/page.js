// Keys go to the terminal without a click. textual.js has made it in its own listener, which is called first.
addEventListener("load", () => document.querySelector(".xterm-helper-textarea").focus());
