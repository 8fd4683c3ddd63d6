"""The seven tasks, one row each, and their instruction sentences in English and Chinese.

To add a task, add a row and its tests. No other code knows a task by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iepile_cli.errors import UnknownName
from iepile_cli.task.shape import NAN, Each, Keyed, Mention, Node, Record, Slots, fixed_roles


@dataclass(frozen=True, slots=True)
class Layout:
    """How an annotated record holds a task's gold: which field, and which keys in its entries.

    ``roles`` maps each fixed role to an entry's key. Slots stand either as a list in the entry
    (``slot_list``, with ``slot_role`` and ``slot_text`` in each element) or, with ``by_head``, as
    one entry for each slot value, all entries with the same first role making one item. Of
    entries that agree in the ``unique`` keys only the first counts; without any, all count.
    """

    field: str
    type: str
    roles: tuple[tuple[str, str], ...]
    slot_list: str = ""
    slot_role: str = ""
    slot_text: str = ""
    subject_type: str = ""
    object_type: str = ""
    by_head: bool = False
    unique: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unit:
    """What is counted when answers are scored: the fields in which two extracted items must agree.

    ``label`` names the fields beside the mentions: ``type`` (the answer's key), ``subject_type``,
    ``object_type``, or ``slot``; its first field is what scores per type go by. ``mentions`` are
    pieces of the text: fixed roles, or ``filler`` for what stands in a slot. A unit with ``slot``
    or ``filler`` counts every slot value, any other one every item.
    """

    name: str
    label: tuple[str, ...]
    mentions: tuple[str, ...]

    @property
    def slotted(self) -> bool:
        """Whether slot values are counted, not whole items."""
        return "filler" in self.mentions


@dataclass(frozen=True, slots=True)
class Task:
    """One task: wording, schema form, answer shape, record layout, batch size and what is scored.

    ``item_keys`` are the keys of a schema item in the instruction, each with the ``SchemaItem``
    field it shows; empty means that an item is its bare type. ``slots`` is the key that holds the
    slots in the JSON of a schema item and of a result. ``batch_size`` is how many schema items an
    instruction holds by default (``split_num``). ``units`` are scored apart, the main one first.
    ``comparable`` is False where the evaluation script of the IEPile repository has no score.

    ``negatives`` says which parts of a schema a training record may leave out: ``"types"`` and
    ``"slots"``; a part that is not named is always there. ``gold_types_only``: a schema has only
    types that the record has, as their triggers are given. ``keeps_empty``: a training record
    with no type left still makes one row, with an empty schema (so upstream does for events).
    """

    name: str
    title: str
    instruction: Mapping[str, str]
    shape: Node
    layout: Layout
    units: tuple[Unit, ...]
    item_keys: tuple[tuple[str, str], ...] = ()
    slots: str = ""
    batch_size: int = 4
    example: str = ""
    negatives: tuple[str, ...] = ("types",)
    gold_types_only: bool = False
    keeps_empty: bool = False
    comparable: bool = True

    @property
    def is_single(self) -> bool:
        """Whether an item is one mention and nothing else."""
        return not self.slots and len(fixed_roles(self.shape)) == 1


LANGUAGES = ("en", "zh")

# The instruction sentence of each task. These are a wire format: the published adapters were
# trained on them, so they are kept to the letter, odd spaces and half-width commas included.

_NER_WORDS: Mapping[str, str] = {
    "en": (
        "You are an expert in named entity recognition. Please extract entities that match "
        "the schema definition from the input. Return an empty list if the entity type does "
        "not exist. Please respond in the format of a JSON string."
    ),
    "zh": (
        "你是专门进行实体抽取的专家。请从input中抽取出符合schema定义的实体，不"
        "存在的实体类型返回空列表。请按照JSON字符串的格式回答。"
    ),
}

_RE_WORDS: Mapping[str, str] = {
    "en": (
        "You are an expert in relationship extraction. Please extract relationship triples "
        "that match the schema definition from the input. Return an empty list for "
        "relationships that do not exist. Please respond in the format of a JSON string."
    ),
    "zh": (
        "你是专门进行关系抽取的专家。请从input中抽取出符合schema定义的关系三元"
        "组，不存在的关系返回空列表。请按照JSON字符串的格式回答。"
    ),
}

_EE_WORDS: Mapping[str, str] = {
    "en": (
        "You are an expert in event extraction. Please extract events from the input that "
        "conform to the schema definition. Return an empty list for events that do not "
        "exist, and return NAN for arguments that do not exist. If an argument has multiple "
        "values, please return a list. Respond in the format of a JSON string."
    ),
    "zh": (
        "你是专门进行事件提取的专家。请从input中抽取出符合schema定义的事件，不"
        "存在的事件返回空列表，不存在的论元返回NAN，如果论元存在多值请返回列表。请按照"
        "JSON字符串的格式回答。"
    ),
}

_EET_WORDS: Mapping[str, str] = {
    "en": (
        "You are an expert in event extraction. Please extract event types and event trigger "
        "words from the input that conform to the schema definition. Return an empty list "
        "for non-existent events. Please respond in the format of a JSON string."
    ),
    "zh": (
        "你是专门进行事件提取的专家。请从input中抽取出符合schema定义的事件类型"
        "及事件触发词，不存在的事件返回空列表。请按照JSON字符串的格式回答。"
    ),
}

_EEA_WORDS: Mapping[str, str] = {
    "en": (
        "You are an expert in event argument extraction. Please extract event arguments and "
        "their roles from the input that conform to the schema definition, which already "
        "includes event trigger words. If an argument does not exist, return NAN or an empty "
        "dictionary. Please respond in the format of a JSON string."
    ),
    "zh": (
        "你是专门进行事件论元提取的专家。请从input中抽取出符合schema定义的事件"
        "论元及论元角色，不存在的论元返回NAN或空字典，如果论元存在多值请返回列表。请按"
        "照JSON字符串的格式回答。"
    ),
}

_KG_WORDS: Mapping[str, str] = {
    "en": (
        "You are an expert in structured knowledge systems for graph entities. Based on the "
        "schema description of the input entity type, you extract the corresponding entity "
        "instances and their attribute information from the text. Attributes that do not "
        "exist should not be output. If an attribute has multiple values, a list should be "
        "returned. The results should be output in a parsable JSON format."
    ),
    "zh": (
        "你是一个图谱实体知识结构化专家。根据输入实体类型(entity type)的sc"
        "hema描述，从文本中抽取出相应的实体实例和其属性信息，不存在的属性不输出, 属"
        "性存在多值就返回列表，并输出为可解析的json格式。"
    ),
}

_EVENT = Layout(
    field="event",
    type="event_type",
    roles=(("trigger", "event_trigger"),),
    slot_list="arguments",
    slot_role="role",
    slot_text="argument",
)
_ARGUMENT = Unit("argument", label=("type", "slot"), mentions=("filler",))
_TRIGGER = Unit("event", label=("type",), mentions=("trigger",))
_TRIPLE = (("subject", "head"), ("object", "tail"))
_PAIR = Record((("subject", Mention("subject")), ("object", Mention("object"))))

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="NER",
            title="named entities",
            instruction=_NER_WORDS,
            shape=Each(Mention("mention")),
            layout=Layout(
                "entity",
                "entity_type",
                roles=(("mention", "entity"),),
                unique=("entity", "entity_type"),
            ),
            units=(Unit("entity", label=("type",), mentions=("mention",)),),
            batch_size=6,
            example="person,location",
        ),
        Task(
            name="RE",
            title="relations",
            instruction=_RE_WORDS,
            shape=Each(_PAIR),
            layout=Layout(
                "relation", "relation", roles=_TRIPLE, unique=("head", "relation", "tail")
            ),
            units=(Unit("relation", label=("type",), mentions=("subject", "object")),),
            example="founder of,place of birth",
        ),
        Task(
            name="SPO",
            title="typed relations",
            instruction=_RE_WORDS,
            shape=Each(_PAIR),
            layout=Layout(
                "relation",
                "relation",
                roles=_TRIPLE,
                subject_type="head_type",
                object_type="tail_type",
                unique=("head", "head_type", "relation", "tail", "tail_type"),
            ),
            units=(
                Unit(
                    "relation",
                    label=("type", "subject_type", "object_type"),
                    mentions=("subject", "object"),
                ),
            ),
            item_keys=(
                ("subject_type", "subject_type"),
                ("predicate", "type"),
                ("object_type", "object_type"),
            ),
            comparable=False,
            example="person -works for-> organization",
        ),
        Task(
            name="EE",
            title="events: trigger and arguments",
            instruction=_EE_WORDS,
            shape=Each(
                Record((("trigger", Mention("trigger", absent=NAN)), ("arguments", Slots(NAN))))
            ),
            layout=_EVENT,
            units=(_TRIGGER, _ARGUMENT),
            item_keys=(("event_type", "type"), ("trigger", "trigger"), ("arguments", "slots")),
            slots="arguments",
            example="attack(attacker, target, place)",
            negatives=("types", "slots"),
            keeps_empty=True,
        ),
        Task(
            name="EET",
            title="event triggers",
            instruction=_EET_WORDS,
            shape=Each(Mention("trigger")),
            layout=Layout("event", "event_type", roles=(("trigger", "event_trigger"),)),
            units=(_TRIGGER,),
            example="attack,meeting",
        ),
        Task(
            name="EEA",
            title="arguments of given triggers",
            instruction=_EEA_WORDS,
            shape=Each(Slots(NAN)),
            layout=_EVENT,
            units=(Unit("event", label=("type",), mentions=()), _ARGUMENT),
            item_keys=(("event_type", "type"), ("trigger", "triggers"), ("arguments", "slots")),
            slots="arguments",
            example="attack[bombed](attacker, target)",
            negatives=("slots",),
            gold_types_only=True,
        ),
        Task(
            name="KG",
            title="entities with attributes",
            instruction=_KG_WORDS,
            shape=Keyed("entity", Slots(absent=None)),
            layout=Layout(
                "relation",
                "head_type",
                roles=(("entity", "head"),),
                slot_role="relation",
                slot_text="tail",
                by_head=True,
            ),
            units=(
                Unit("attribute", label=("slot",), mentions=("entity", "filler")),
                Unit("entity", label=("type",), mentions=("entity",)),
            ),
            item_keys=(("entity_type", "type"), ("attributes", "slots")),
            slots="attributes",
            batch_size=1,
            comparable=False,
            example="person{birthplace, occupation}",
            negatives=("slots",),
        ),
    )
}


def task_named(name: str) -> Task:
    """The task of that name, in any case; raises ``UnknownName``."""
    try:
        return TASKS[name.upper()]
    except KeyError:
        raise UnknownName(
            f"no task is called {name!r}", hint=f"tasks: {', '.join(TASKS)}"
        ) from None
