"""The hub's settings file."""

import tomllib

from thinwire.receiver.config import TEMPLATE, with_state

OLD = r'''
database = "postgresql+psycopg://hub:SECRET@db/one"
"database"="postgresql+psycopg://hub:SECRET@db/two"
  #  'database' = 'postgresql+psycopg://hub:SECRET@db/three'
##database = "postgresql+psycopg://hub:SECRET@db/four"
# database = """
#   postgresql+psycopg://hub:SECRET@db/five"""
blobs = """\
s3://SECRET/thinwire"""
listen = "127.0.0.1:7443"  # the database
[metrics]
listen = "127.0.0.1:9464"
# blobs = "s3://SECRET/thinwire"
'''


def test_no_line_about_another_state_stays() -> None:
    text = with_state(OLD, blobs="s3://new/thinwire")
    assert "SECRET" not in text
    assert tomllib.loads(text) == {
        "blobs": "s3://new/thinwire",
        "listen": "127.0.0.1:7443",
        "metrics": {"listen": "127.0.0.1:9464"},
    }
    assert len(with_state(TEMPLATE).splitlines()) == len(TEMPLATE.splitlines()) - 1
