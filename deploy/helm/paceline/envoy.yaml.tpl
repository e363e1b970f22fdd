# TLS ends here. A text's streams carry one x-paceline-session, and a ring of the verifiers' addresses by its hash leads them
# all to one verifier for as long as it is there and healthy. A draining verifier says so by gRPC health and gets no new ones.
static_resources:
  listeners:
    - name: grpc
      address: {socket_address: {address: 0.0.0.0, port_value: 7443}}
      filter_chains:
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                alpn_protocols: [h2]
                tls_params: {tls_minimum_protocol_version: TLSv1_2}
                tls_certificates:
                  - certificate_chain: {filename: /etc/paceline/tls/tls.crt}
                    private_key: {filename: /etc/paceline/tls/tls.key}
          filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: paceline
                codec_type: HTTP2
                # A stream may be silent while a person thinks, and lasts as long as its text.
                stream_idle_timeout: 300s
                request_timeout: 0s
                http2_protocol_options:
                  max_concurrent_streams: 1024
                  connection_keepalive: {interval: 20s, timeout: 5s}
                route_config:
                  virtual_hosts:
                    - name: paceline
                      domains: ["*"]
                      routes:
                        - match: {prefix: /paceline.v1.VerifierService/}
                          route:
                            cluster: verifiers
                            timeout: 0s
                            hash_policy: [{header: {header_name: x-paceline-session}}]
                        - match: {prefix: /grpc.health.v1.Health/}
                          route: {cluster: verifiers}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: verifiers
      type: STRICT_DNS
      dns_refresh_rate: 5s
      connect_timeout: 2s
      lb_policy: RING_HASH
      common_lb_config: {healthy_panic_threshold: {value: 0}}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {connection_keepalive: {interval: 20s, timeout: 5s}}}
      health_checks:
        - timeout: 2s
          interval: 2s
          # Otherwise the first look after a start is followed by none for a minute.
          no_traffic_interval: 2s
          unhealthy_threshold: 2
          healthy_threshold: 1
          grpc_health_check: {}
      load_assignment:
        cluster_name: verifiers
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address:
                      address: {{ include "paceline.name" . }}-verifiers.{{ .Release.Namespace }}.svc
                      port_value: 7443
admin:
  address: {socket_address: {address: 0.0.0.0, port_value: 9901}}
