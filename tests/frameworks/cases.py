# SPDX-License-Identifier: Apache-2.0
"""One function a framework: an agent with one tool streams its answer, and leaves off as a user of it would."""
# mypy: ignore-errors

from __future__ import annotations

from typing import Any

from .apart import APART
from .case import GPT, MODEL, PARAMETERS, QUESTION, Case, Leave, get_weather
from .clients import CLIENTS


async def pydantic_ai(leave: Leave) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIChatModel(GPT, provider=OpenAIProvider(api_key="none")), tools=[get_weather])
    async with agent.run_stream(QUESTION) as result:
        async for _ in result.stream_text(delta=True):
            if leave():
                break


def langchain(leave: Leave) -> None:
    from langchain.agents import create_agent
    from langchain_anthropic import ChatAnthropic

    agent = create_agent(ChatAnthropic(model=MODEL, api_key="none"), [get_weather])
    for _ in agent.stream({"messages": [("user", QUESTION)]}, stream_mode="messages"):
        if leave():
            break


async def langchain_async(leave: Leave) -> None:
    from langchain.agents import create_agent
    from langchain_anthropic import ChatAnthropic

    agent = create_agent(ChatAnthropic(model=MODEL, api_key="none"), [get_weather])
    async for _ in agent.astream({"messages": [("user", QUESTION)]}, stream_mode="messages"):
        if leave():
            break


def langchain_model(leave: Leave) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=GPT, api_key="none").bind_tools([get_weather])
    messages = [("user", QUESTION)]
    while True:
        whole = None
        for chunk in model.stream(messages):
            whole = chunk if whole is None else whole + chunk
            if leave():
                return
        if not whole.tool_calls:
            return
        messages.append(whole)
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": get_weather(**call["args"])}
            for call in whole.tool_calls
        ]


def langgraph(leave: Leave) -> None:
    from langchain_anthropic import ChatAnthropic
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    model = ChatAnthropic(model=MODEL, api_key="none").bind_tools([get_weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([get_weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    for _ in graph.compile().stream({"messages": [("user", QUESTION)]}, stream_mode="messages"):
        if leave():
            break


async def langgraph_async(leave: Leave) -> None:
    from langchain_anthropic import ChatAnthropic
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    model = ChatAnthropic(model=MODEL, api_key="none").bind_tools([get_weather])

    async def ask(state: Any) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", ask)
    graph.add_node("tools", ToolNode([get_weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    async for _ in graph.compile().astream({"messages": [("user", QUESTION)]}, stream_mode="messages"):
        if leave():
            break


async def llama_index_cancelled(leave: Leave) -> None:
    await llama_index(leave, cancels=True)


async def llama_index(leave: Leave, *, cancels: bool = False) -> None:
    from llama_index.core.agent.workflow import AgentStream, FunctionAgent
    from llama_index.llms.openai import OpenAI

    agent = FunctionAgent(tools=[get_weather], llm=OpenAI(model=GPT, api_key="none"))
    handler = agent.run(QUESTION)
    async for event in handler.stream_events():
        if isinstance(event, AgentStream) and event.delta and leave():
            if cancels:
                await handler.cancel_run()
            return
    await handler


async def openai_agents(leave: Leave) -> None:
    from agents import Agent, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)
    agent = Agent(name="weather", model=GPT, tools=[function_tool(get_weather)])
    result = Runner.run_streamed(agent, QUESTION)
    async for event in result.stream_events():
        if event.type == "raw_response_event" and leave():
            return


async def openai_agents_cancelled(leave: Leave) -> None:
    from agents import Agent, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)
    agent = Agent(name="weather", model=GPT, tools=[function_tool(get_weather)])
    result = Runner.run_streamed(agent, QUESTION)
    async for event in result.stream_events():
        if event.type == "raw_response_event" and leave():
            result.cancel()


def litellm_closed(leave: Leave) -> None:
    litellm(leave, closes=True)


def litellm(leave: Leave, *, closes: bool = False) -> None:
    import litellm

    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    while True:
        chunks = []
        answer = litellm.completion(model=f"openai/{GPT}", api_key="none", messages=messages, tools=tools, stream=True)
        for chunk in answer:
            chunks.append(chunk)
            if leave():
                if closes:
                    answer.completion_stream.close()
                return
        said = litellm.stream_chunk_builder(chunks).choices[0].message
        if not said.tool_calls:
            return
        messages.append(said.model_dump(exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": get_weather("Oslo")} for call in said.tool_calls
        ]


def smolagents(leave: Leave) -> None:
    from smolagents import OpenAIModel, ToolCallingAgent, tool

    agent = ToolCallingAgent(
        tools=[tool(get_weather)],
        model=OpenAIModel(GPT, api_key="none"),
        stream_outputs=True,
        verbosity_level=0,
        max_steps=2,
    )
    for event in agent.run(QUESTION, stream=True):
        if type(event).__name__ == "ChatMessageStreamDelta" and leave():
            break


def agno(leave: Leave) -> None:
    from agno.agent import Agent
    from agno.models.anthropic import Claude

    agent = Agent(model=Claude(id=MODEL, api_key="none"), tools=[get_weather], telemetry=False)
    for event in agent.run(QUESTION, stream=True):
        if getattr(event, "content", None) and leave():
            break


async def agno_async(leave: Leave) -> None:
    from agno.agent import Agent
    from agno.models.anthropic import Claude

    agent = Agent(model=Claude(id=MODEL, api_key="none"), tools=[get_weather], telemetry=False)
    async for event in agent.arun(QUESTION, stream=True):
        if getattr(event, "content", None) and leave():
            break


def instructor(leave: Leave) -> None:
    import anthropic
    import instructor
    from pydantic import BaseModel

    class Answer(BaseModel):
        city: str | None = None

    client = instructor.from_anthropic(anthropic.Anthropic(api_key="none"))
    for _ in client.messages.create_partial(
        model=MODEL, max_tokens=64, messages=[{"role": "user", "content": QUESTION}], response_model=Answer
    ):
        if leave():
            break


async def strands(leave: Leave) -> None:
    from strands import Agent, tool
    from strands.models.anthropic import AnthropicModel

    model = AnthropicModel(client_args={"api_key": "none"}, model_id=MODEL, max_tokens=64)
    agent = Agent(model=model, tools=[tool(get_weather)], callback_handler=None)
    async for event in agent.stream_async(QUESTION):
        if event.get("data") and leave():
            break


def haystack(leave: Leave) -> None:
    from haystack.components.agents import Agent
    from haystack.dataclasses import ChatMessage
    from haystack.tools import create_tool_from_function
    from haystack.utils import Secret
    from haystack_integrations.components.generators.anthropic import AnthropicChatGenerator

    class LeftError(Exception):
        pass

    def piece(chunk: Any) -> None:
        if chunk.content and leave():
            raise LeftError

    generator = AnthropicChatGenerator(model=MODEL, api_key=Secret.from_token("none"))
    agent = Agent(chat_generator=generator, tools=[create_tool_from_function(get_weather)], streaming_callback=piece)
    try:
        agent.run(messages=[ChatMessage.from_user(QUESTION)])
    except Exception as error:
        while error is not None and not isinstance(error, LeftError):
            error = error.__cause__ or error.__context__
        if error is None:
            raise


TOGETHER = {
    "Pydantic AI": Case(pydantic_ai, ("pydantic-ai-slim",), "`break` in `async with agent.run_stream()`"),
    "LangChain, agent": Case(langchain, ("langchain", "langchain-anthropic"), "`break` from `agent.stream()`"),
    "LangChain, agent, async": Case(
        langchain_async, ("langchain", "langchain-anthropic"), "`break` from `agent.astream()`"
    ),
    "LangChain, model": Case(langchain_model, ("langchain", "langchain-openai"), "`return` from `model.stream()`"),
    "LangGraph": Case(langgraph, ("langgraph", "langchain-anthropic"), "`break` from `graph.stream()`"),
    "LangGraph, async": Case(langgraph_async, ("langgraph", "langchain-anthropic"), "`break` from `graph.astream()`"),
    "LlamaIndex": Case(
        llama_index, ("llama-index-core", "llama-index-llms-openai"), "`return` from `handler.stream_events()`"
    ),
    "LlamaIndex, cancelled": Case(
        llama_index_cancelled, ("llama-index-core", "llama-index-llms-openai"), "`await handler.cancel_run()`"
    ),
    "OpenAI Agents": Case(openai_agents, ("openai-agents",), "`return` from `result.stream_events()`"),
    "OpenAI Agents, cancelled": Case(openai_agents_cancelled, ("openai-agents",), "`result.cancel()`"),
    "LiteLLM, OpenAI models": Case(litellm, ("litellm",), "`return` from its stream"),
    "LiteLLM, OpenAI models, closed": Case(litellm_closed, ("litellm",), "`answer.completion_stream.close()`"),
    "smolagents": Case(smolagents, ("smolagents",), "`break` from `agent.run(stream=True)`"),
    "Agno": Case(agno, ("agno",), "`break` from `agent.run(stream=True)`"),
    "Agno, async": Case(agno_async, ("agno",), "`break` from `agent.arun(stream=True)`"),
    "Instructor": Case(instructor, ("instructor",), "`break` from `create_partial()`", schema=True),
    "Strands": Case(strands, ("strands-agents",), "`break` from `agent.stream_async()`"),
    "Haystack": Case(haystack, ("haystack-ai", "anthropic-haystack"), "an exception in `streaming_callback`"),
}

CASES = {**TOGETHER, **APART, **CLIENTS}
