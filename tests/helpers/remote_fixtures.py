"""An S3 server on this machine."""

import uuid

import fsspec
import pytest


@pytest.fixture(scope="module")
def bucket():
    """The URL of an empty bucket of a server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        name = f"bucket-{uuid.uuid4()}"  # the server's content outlives it in this process
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # they know the address of an earlier server
        fsspec.filesystem("s3").mkdir(name)
        yield f"s3://{name}"
    server.stop()
