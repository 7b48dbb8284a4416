"""The `llm` command's library; needs the extra `llm`. On the command line: `llm -m hybrid-llm "Hello"`."""

import llm

conversation = llm.get_model("hybrid-llm").conversation()
for question in ("Is this review positive? 'A warm, funny film.'", "And this? 'Dull.'"):
    response = conversation.prompt(question, max_tokens=16)
    print(response.text(), f"({response.response_json['backend']})")
