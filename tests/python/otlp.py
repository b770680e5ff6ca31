"""A collector: takes spans over OTLP and prints each as one JSON line.

Arguments: the port (0: any), and how it behaves: `answer`, `hang`, or the paths of a certificate and
its key, with which it speaks TLS. The first line says where it listens.
"""

import json
import sys
import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def show(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Collector(service.TraceServiceServicer):
    def Export(self, request, context):
        if "hang" in sys.argv:
            threading.Event().wait()
        for resource in request.resource_spans:
            of = attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    show(
                        {
                            "resource": of,
                            "scope": scope.scope.name,
                            "name": span.name,
                            "kind": span.kind,
                            "trace": span.trace_id.hex(),
                            "id": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "state": span.trace_state,
                            "start": span.start_time_unix_nano,
                            "end": span.end_time_unix_nano,
                            "status": span.status.code,
                            "attributes": attributes(span.attributes),
                            "events": [event.name for event in span.events],
                        }
                    )
        return messages.ExportTraceServiceResponse()


server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
service.add_TraceServiceServicer_to_server(Collector(), server)
where = f"127.0.0.1:{sys.argv[1]}"
if len(sys.argv) > 3:
    with open(sys.argv[2], "rb") as certificate, open(sys.argv[3], "rb") as key:
        pair = (key.read(), certificate.read())
    port = server.add_secure_port(where, grpc.ssl_server_credentials([pair]))
else:
    port = server.add_insecure_port(where)
server.start()
show({"listening": port})
server.wait_for_termination()
