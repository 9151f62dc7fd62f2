import pytest
from absl import flags

from pipelines import task_flags
from tests.tasks.arguments_test import job


def parse(*given):
    values = flags.FlagValues()
    read = task_flags.define(job, "job", flag_values=values)
    values(["job", "--data=here", *given])
    return read, values


def test_flags_have_the_defaults_and_types_of_the_signature():
    read, _ = parse()
    assert read() == dict(
        data="here",
        out="out",
        split=None,
        labels="auto",
        epochs=10,
        method="first",
        recipe=None,
        rate=0.1,
        scale=1.0,
        drops=None,
        depth=8,
        stop=False,
        hparams={},
    )
    read, _ = parse(
        "--split=test", "--epochs=3", "--rate=1", "--drops=1,2.5", "--depth=16",
        "--stop", "--hparam=width=0.5", "--hparam=stem=cifar", "--recipe=second",
    )  # fmt: skip
    assert job(**read())["images"].split == "test"
    assert (read()["epochs"], read()["rate"], read()["depth"]) == (3, 1.0, 16)
    assert (read()["drops"], read()["stop"], read()["recipe"]) == (
        (1.0, 2.5),
        True,
        "second",
    )
    assert read()["hparams"] == {"width": 0.5, "stem": "cifar"}


def test_what_is_needed_must_be_given():
    values = flags.FlagValues()
    task_flags.define(job, "job", flag_values=values)
    with pytest.raises(flags.IllegalFlagValueError, match="data"):
        values(["job"])


def test_bounds_are_those_of_the_task():
    read, _ = parse("--epochs=0")
    with pytest.raises(ValueError, match="epochs=0 received"):
        job(**read())


def test_wrong_lists_and_pairs_are_named():
    with pytest.raises(ValueError, match="--drops=1,x received, expected numbers"):
        parse("--drops=1,x")[0]()
    with pytest.raises(ValueError, match="--hparam=x received, expected --hparam=name"):
        parse("--hparam=x")[0]()


def test_help_is_one_sentence_with_default_and_choices():
    _, values = parse()
    told = values.module_help("job")
    assert "Part of the data, for those that have parts.\n" in told
    assert "Not all have" not in told
    assert "--method: <first|second>: How.\n    (default: 'first')" in told
    assert "--[no]stop" in told


def test_flags_written_and_read_again_are_the_same():
    read, values = parse("--drops=1,2.5", "--hparam=width=0.5", "--stop", "--epochs=3")
    lines = [flag.serialize() for flag in values.flags_by_module_dict()["job"]]
    again, _ = parse(*[line for line in "\n".join(lines).split("\n") if line])
    assert again() == read()


def test_an_empty_text_is_none_where_none_is_a_value():
    assert parse("--split=")[0]()["split"] is None
