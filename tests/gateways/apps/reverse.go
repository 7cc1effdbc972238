// SPDX-License-Identifier: Apache-2.0

// Go's reverse proxy, as its documentation has it.
package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	upstream, err := url.Parse(os.Getenv("UPSTREAM"))
	if err != nil {
		panic(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(request *httputil.ProxyRequest) { request.SetURL(upstream) }}
	panic(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), proxy))
}
