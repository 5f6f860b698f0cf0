def fail(text):
    assert not text, f"{text} is not empty"
