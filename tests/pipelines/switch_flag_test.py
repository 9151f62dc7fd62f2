import pytest
from absl import flags

from pipelines import command


@pytest.mark.parametrize(
    "given, value, written",
    [
        ([], "auto", "--jit=auto"),
        (["--jit"], True, "--jit"),
        (["--nojit"], False, "--nojit"),
        (["--jit=true"], True, "--jit"),
        (["--jit=false"], False, "--nojit"),
        (["--jit=auto"], "auto", "--jit=auto"),
        (["--jit=false", "--jit=auto"], "auto", "--jit=auto"),
    ],
)
def test_a_switch_is_on_off_or_auto_and_is_written_as_it_is_read(given, value, written):
    values = flags.FlagValues()
    flags.DEFINE_flag(command.Switch("jit", "auto", "XLA."), values)
    values(["binary", *given])
    assert values.jit == value and type(values.jit) is type(value)
    assert values["jit"].serialize() == written


def test_other_values_of_a_switch_are_refused():
    values = flags.FlagValues()
    flags.DEFINE_flag(command.Switch("jit", "auto", "XLA."), values)
    with pytest.raises(flags.IllegalFlagValueError, match="jit=maybe"):
        values(["binary", "--jit=maybe"])
