from dino_train.records.settings import completed, differences, in_words, is_longer


def test_differences_name_each_setting_with_both_values():
    old = {"seed": 0, "optim": {"lr": 1.0, "epochs": 5}}
    new = {"seed": 3, "optim": {"lr": 2.0, "epochs": 5}, "later": 1}
    found = differences(old, new)
    assert found == {"later": "None -> 1", "optim.lr": "1.0 -> 2.0", "seed": "0 -> 3"}
    assert in_words(found) == "later: None -> 1, optim.lr: 1.0 -> 2.0, seed: 0 -> 3"


def test_missing_settings_get_their_defaults_and_all_others_stay():
    defaults = {"seed": 0, "optim": {"lr": 1.0, "epochs": 5}}
    assert completed({"optim": {"lr": 2.0}}, defaults) == {
        "seed": 0,
        "optim": {"lr": 2.0, "epochs": 5},
    }
    odd = {"seed": "x", "optim": None, "unknown": {"a": 1}}
    assert completed(odd, defaults) == odd
    assert defaults == {"seed": 0, "optim": {"lr": 1.0, "epochs": 5}}


def test_only_more_epochs_are_longer():
    for epochs, longer in ((4, False), (5, False), (6, True)):
        assert is_longer({"optim": {"epochs": epochs}}, {"optim": {"epochs": 5}}) is longer
    assert not is_longer({"optim": {"epochs": 6}}, {"optim": {"epochs": None}})
