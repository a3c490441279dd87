import pytest

from slim.models import MODELS, create, options


@pytest.mark.parametrize("name", MODELS)
def test_the_defaults_are_accepted_as_options(name):
    assert create(name, num_classes=7, **options(name)) == create(name, num_classes=7)


def test_what_a_name_fixes_is_no_option():
    assert set(options("resnet20")) == {"width", "shortcut"}
    assert set(options("vit_b")) == {"patch_size", "dropout"}
    assert set(options("bert")) == {"size", "dropout"}


def test_a_configurations_list_and_int_become_the_options_types():
    model = create("mlp", num_classes=2, hidden=[3, 4], dropout=0)
    assert model.hidden == (3, 4)
    assert isinstance(model.dropout, float)
    hash(model)


@pytest.mark.parametrize(
    ("name", "chosen", "complaint"),
    [
        ("resnet21", {}, "unknown model: 'resnet21'.*mean 'resnet.*Allowed: mlp, resnet8"),
        ("resnet20", {"widht": 8}, "option of model 'resnet20': 'widht'.*mean 'width'.*shortcut"),
        ("resnet20", {"depth": 8}, "unknown option of model 'resnet20': 'depth'"),
        ("resnet20", {"width": 8.0}, "option width = 8.0 .*int, as its default 16"),
        ("resnet20", {"width": True}, "option width = True .*int"),
        ("resnet20", {"width": 0}, "option width = 0 .*at least 1"),
        ("resnet20", {"shortcut": "conv"}, "shortcut = 'conv'.*'pad' or 'projection'"),
        ("resnet20", {"num_classes": 0}, "num_classes = 0 .*at least 1"),
        ("resnet18", {"stem": "tiny"}, "stem = 'tiny'.*'imagenet' or 'small'"),
        ("mlp", {"hidden": 8}, "option hidden = 8 .*tuple"),
        ("mlp", {"hidden": (8, 0)}, r"hidden = \(8, 0\)"),
        ("mlp", {"dropout": 1}, "dropout = 1.0 "),
        ("vit_ti", {"dropout": -0.1}, "dropout = -0.1 "),
        ("mobilenet_v2", {"dropout": 1.5}, "dropout = 1.5 "),
        ("mobilenet_v2", {"width_multiplier": 0}, "width_multiplier = 0.0 "),
        ("mobilenet_v3_small", {"dropout": 1.5}, "dropout = 1.5 "),
        ("mobilenet_v3_small", {"width_multiplier": "1"}, "width_multiplier = '1' .*float"),
        ("mobilenet_v3_small", {"width_multiplier": -1.0}, "width_multiplier = -1.0 "),
        ("bert", {"size": "minilm"}, "BERT: unknown name 'minilm'; did you mean 'minilm_l6'"),
        ("bert", {"dropout": 1}, "dropout = 1.0 "),
    ],
)
def test_a_wrong_choice_is_named(name, chosen, complaint):
    with pytest.raises(ValueError, match=complaint):
        create(name, **{"num_classes": 10, **chosen})
