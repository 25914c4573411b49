"""A package's preview provider as plugin process, spoken to as the official CLI does."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from infra.engine.props import UNKNOWN, from_struct, secret, to_struct
from infra.engine.sdkschema import find_sdk
from infra.engine.serve import serve

KEY = "urn:pulumi:dev::p::tls:index/privateKey:PrivateKey::key"
PACKAGE = "tls"


@pytest.fixture(scope="module")
def stub() -> Iterator[Any]:
    """A stub of the package tls, met and configured."""
    sdk = find_sdk(PACKAGE, sys.executable)
    assert sdk is not None
    server, port = serve(sdk, lambda sentence: None)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = provider_pb2_grpc.ResourceProviderStub(channel)
        stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address=""))
        answer = stub.Configure(provider_pb2.ConfigureRequest(args=to_struct({})))
        assert answer.acceptSecrets
        assert answer.supportsPreview
        yield stub
    server.stop(None).wait()


def test_it_says_which_version_it_stands_for(stub: Any) -> None:
    sdk = find_sdk(PACKAGE, sys.executable)
    assert sdk is not None
    assert stub.GetPluginInfo(empty_pb2.Empty()).version == sdk.version
    assert f'"version": "{sdk.version}"' in stub.GetSchema(provider_pb2.GetSchemaRequest()).schema


def test_arguments_are_checked(stub: Any) -> None:
    request = provider_pb2.CheckRequest(urn=KEY, news=to_struct({"algorithm": secret("RSA"), "rsaBit": 2048}))
    answer = stub.Check(request)
    assert [(item.property, item.reason) for item in answer.failures] == [
        ("rsaBit", "PrivateKey has no argument 'rsaBit' (did you mean 'rsaBits'?)")
    ]
    assert from_struct(answer.inputs) == {"algorithm": secret("RSA"), "rsaBit": 2048}


def test_configuration_is_checked(stub: Any) -> None:
    request = provider_pb2.CheckRequest(
        urn="urn:pulumi:dev::p::pulumi:providers:tls::default", news=to_struct({"x": "1"})
    )
    assert [item.property for item in stub.CheckConfig(request).failures] == ["x"]


def test_a_preview_of_a_create_knows_inputs_alone(stub: Any) -> None:
    request = provider_pb2.CreateRequest(urn=KEY, properties=to_struct({"algorithm": "ED25519"}), preview=True)
    answer = stub.Create(request)
    outputs = from_struct(answer.properties)
    assert answer.id == ""
    assert outputs["algorithm"] == "ED25519"
    assert outputs["privateKeyPem"] == UNKNOWN


@pytest.mark.parametrize("verb", ["Create", "Update", "Delete"])
def test_nothing_is_ever_changed(stub: Any, verb: str) -> None:
    request = getattr(provider_pb2, f"{verb}Request")(urn=KEY)
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, verb)(request)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"cannot {verb.lower()} tls:index/privateKey:PrivateKey 'key'" in error.details()


def test_what_a_function_would_answer_is_marked_unknown(stub: Any) -> None:
    answer = stub.Invoke(provider_pb2.InvokeRequest(tok="tls:index/getPublicKey:getPublicKey", args=to_struct({})))
    values = from_struct(getattr(answer, "return"))
    assert values["publicKeyPem"] == "<unknown: tls:index/getPublicKey:getPublicKey>"


def test_it_runs_as_a_process_that_prints_its_port() -> None:
    process = subprocess.Popen([sys.executable, "-m", "infra.engine.serve", PACKAGE], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert provider_pb2_grpc.ResourceProviderStub(channel).GetPluginInfo(empty_pb2.Empty()).version
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("arguments", "said"), [([], "usage:"), (["gcp"], "install pulumi-gcp")])
def test_what_cannot_be_served_is_said(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.engine.serve", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert said in done.stderr
