# SPDX-License-Identifier: Apache-2.0
"""The frameworks that want versions of their own of what the others need too: each has an environment of its own."""
# mypy: ignore-errors

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .case import GPT, MODEL, QUESTION, Case, Leave, get_weather

MEANWHILE = 0.005  # half the gap between two pieces


def _cancelled(case: Callable[[Leave], Any]) -> Callable[[Leave], Any]:
    """The same, left by a cancel of the task that reads, which comes while it waits."""

    async def run(leave: Leave) -> None:
        def leaving() -> bool:
            if leave():
                asyncio.get_running_loop().call_later(MEANWHILE, reading.cancel)
            return False

        reading = asyncio.create_task(case(leaving))
        with suppress(asyncio.CancelledError):
            await reading

    return run


async def semantic_kernel(leave: Leave) -> None:
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion
    from semantic_kernel.functions import kernel_function

    class Weather:
        get_weather = staticmethod(kernel_function(get_weather))

    model = OpenAIChatCompletion(ai_model_id=GPT, api_key="none")
    agent = ChatCompletionAgent(service=model, name="weather", plugins=[Weather()])
    async for _ in agent.invoke_stream(messages=QUESTION):
        if leave():
            break


async def google_adk(leave: Leave) -> None:
    from google.adk.agents import LlmAgent
    from google.adk.agents.run_config import RunConfig, StreamingMode
    from google.adk.models.anthropic_llm import AnthropicLlm
    from google.adk.runners import InMemoryRunner
    from google.genai import types

    agent = LlmAgent(name="weather", model=AnthropicLlm(model=MODEL), tools=[get_weather])
    runner = InMemoryRunner(agent=agent, app_name="weather")
    session = await runner.session_service.create_session(app_name="weather", user_id="someone")
    async for event in runner.run_async(
        user_id="someone",
        session_id=session.id,
        new_message=types.Content(role="user", parts=[types.Part(text=QUESTION)]),
        run_config=RunConfig(streaming_mode=StreamingMode.SSE),
    ):
        if event.partial and leave():
            break


def _crew() -> Any:
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

    agent = Agent(
        role="weather", goal="tell it", backstory="none",
        llm=LLM(model=f"anthropic/{MODEL}", api_key="none", stream=True), tools=[tool("get_weather")(get_weather)],
    )  # fmt: skip
    task = Task(description=QUESTION, expected_output="a word", agent=agent)
    return Crew(agents=[agent], tasks=[task], stream=True)


def crewai(leave: Leave) -> None:
    pieces = _crew().kickoff()
    for piece in pieces:
        if piece.content and leave():
            pieces.close()
            break


async def crewai_async(leave: Leave) -> None:
    pieces = await _crew().akickoff()
    async for piece in pieces:
        if piece.content and leave():
            await pieces.aclose()
            break


async def autogen(leave: Leave, *, cancels: bool = False) -> None:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_core import CancellationToken
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    token = CancellationToken()
    agent = AssistantAgent(
        "weather",
        model_client=OpenAIChatCompletionClient(model=GPT, api_key="none"),
        tools=[get_weather],
        model_client_stream=True,
        reflect_on_tool_use=True,
    )
    async for event in agent.run_stream(task=QUESTION, cancellation_token=token):
        if type(event).__name__ == "ModelClientStreamingChunkEvent" and leave():
            if not cancels:
                break
            asyncio.get_running_loop().call_later(MEANWHILE, token.cancel)


async def autogen_token(leave: Leave) -> None:
    with suppress(asyncio.CancelledError):
        await autogen(leave, cancels=True)


async def ag2(leave: Leave) -> None:
    from ag2 import Agent, tool
    from ag2.config import OpenAIConfig
    from ag2.events import ModelMessageChunk

    agent = Agent("weather", config=OpenAIConfig(model=GPT, api_key="none", streaming=True), tools=[tool(get_weather)])
    async with agent.run(QUESTION) as run:
        with run.stream.join() as events:
            run.start()
            async for event in events:
                if isinstance(event, ModelMessageChunk) and leave():
                    return
                if type(event).__name__ == "ModelResponse" and not event.tool_calls:
                    break
        await run.result()


async def agent_framework(leave: Leave, *, closes: bool = False) -> None:
    from agent_framework import Agent
    from agent_framework.openai import OpenAIChatClient

    agent = Agent(OpenAIChatClient(model=GPT, api_key="none"), name="weather", tools=[get_weather])
    pieces = agent.run(QUESTION, stream=True)
    async for piece in pieces:
        if piece.text and leave():
            if closes:
                await pieces.close()
            break


async def agent_framework_closed(leave: Leave) -> None:
    await agent_framework(leave, closes=True)


def mirascope(leave: Leave) -> None:
    from mirascope import llm

    answer = llm.Model(f"anthropic/{MODEL}").stream(QUESTION, tools=[llm.tool(get_weather)])
    while True:
        for _ in answer.text_stream():
            if leave():
                return
        if not answer.tool_calls:
            return
        answer = answer.resume(answer.execute_tools())


async def dspy_litellm(leave: Leave) -> None:
    await dspy(leave, engine="litellm")


async def dspy(leave: Leave, **options: Any) -> None:
    import dspy

    if not options:
        options = {"api_base": os.environ["PROVIDER"] + "/v1"}
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    program = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
    with dspy.context(lm=dspy.LM(f"openai/{GPT}", api_key="none", cache=False, **options)):
        async for piece in program(question=QUESTION):
            if isinstance(piece, dspy.streaming.StreamResponse) and leave():
                break


_OF_DSPY = "[[ ## answer ## ]]\n%s\n\n[[ ## completed ## ]]"
_AUTOGEN = ("autogen-agentchat", "autogen-ext[openai]")
_BY_CANCEL = "`task.cancel()` of who reads it"
_MAF = ("agent-framework-core", "agent-framework-openai")

APART = {
    "Semantic Kernel": Case(
        semantic_kernel, ("semantic-kernel",), "`break` from `agent.invoke_stream()`", ("semantic-kernel",),
        tool="Weather-get_weather",
    ),
    "Semantic Kernel, cancelled": Case(
        _cancelled(semantic_kernel), ("semantic-kernel",), _BY_CANCEL, ("semantic-kernel",),
        tool="Weather-get_weather",
    ),
    "Google ADK": Case(google_adk, ("google-adk",), "`break` from `runner.run_async()`", ("google-adk", "anthropic")),
    "CrewAI": Case(crewai, ("crewai",), "`pieces.close()` of `crew.kickoff()`", ("crewai[anthropic]",)),
    "CrewAI, async": Case(
        crewai_async, ("crewai",), "`await pieces.aclose()` of `crew.akickoff()`", ("crewai[anthropic]",)
    ),
    "AutoGen": Case(autogen, ("autogen-agentchat",), "`break` from `agent.run_stream()`", _AUTOGEN),
    "AutoGen, its token": Case(autogen_token, ("autogen-agentchat",), "`cancellation_token.cancel()`", _AUTOGEN),
    "AutoGen, cancelled": Case(
        _cancelled(autogen), ("autogen-agentchat",), _BY_CANCEL, _AUTOGEN
    ),
    "AG2": Case(ag2, ("ag2",), "`return` from `async with agent.run()`", ("ag2[openai]",)),
    "Microsoft Agent Framework": Case(agent_framework, _MAF, "`break` from `agent.run(stream=True)`", _MAF),
    "Microsoft Agent Framework, closed": Case(agent_framework_closed, _MAF, "`await pieces.close()`", _MAF),
    "Mirascope": Case(mirascope, ("mirascope",), "`return` from `text_stream()`", ("mirascope[anthropic]",)),
    "DSPy": Case(
        _cancelled(dspy), ("dspy",), _BY_CANCEL, ("dspy", "litellm"), frame=_OF_DSPY, schema=True,
        by_sdk=False,
    ),
    "DSPy, `engine=\"litellm\"`": Case(
        _cancelled(dspy_litellm), ("dspy", "litellm"), _BY_CANCEL, ("dspy", "litellm"), frame=_OF_DSPY, schema=True,
    ),
}  # fmt: skip
