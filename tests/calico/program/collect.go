package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/projectcalico/calico/kube-controllers/pkg/config"
	"github.com/projectcalico/calico/kube-controllers/pkg/controllers/node"
	"github.com/projectcalico/calico/libcalico-go/lib/apiconfig"
	"github.com/projectcalico/calico/libcalico-go/lib/clientv3"
)

// What Kubernetes has, in the order that standard input names it.
type kubernetesState struct {
	Nodes []string
	Pods  []struct {
		Namespace, Name, Node string
		IPs                   []string
	}
}

// Collects addresses for `seconds` as calico-kube-controllers does where Kubernetes has what standard input says.
func collect(seconds string, grace string) error {
	limit, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	patience, err := time.ParseDuration(grace)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var state kubernetesState
	if err := json.Unmarshal(text, &state); err != nil {
		return err
	}
	api := apiconfig.NewCalicoAPIConfig()
	api.Spec.DatastoreType = apiconfig.EtcdV3
	api.Spec.EtcdEndpoints = os.Getenv("ETCD_ENDPOINTS")
	client, err := clientv3.New(*api)
	if err != nil {
		return err
	}
	cluster := fake.NewSimpleClientset()
	ctx := context.Background()
	for _, name := range state.Nodes {
		one := &core.Node{ObjectMeta: meta.ObjectMeta{Name: name}}
		if _, err := cluster.CoreV1().Nodes().Create(ctx, one, meta.CreateOptions{}); err != nil {
			return err
		}
	}
	for _, pod := range state.Pods {
		one := &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
		one.Spec.NodeName = pod.Node
		one.Status.Phase = core.PodRunning
		for _, ip := range pod.IPs {
			one.Status.PodIPs = append(one.Status.PodIPs, core.PodIP{IP: ip})
		}
		if len(pod.IPs) > 0 {
			one.Status.PodIP = pod.IPs[0]
		}
		if _, err := cluster.CoreV1().Pods(pod.Namespace).Create(ctx, one, meta.CreateOptions{}); err != nil {
			return err
		}
	}
	factory := informers.NewSharedInformerFactory(cluster, 0)
	nodes, pods := factory.Core().V1().Nodes().Informer(), factory.Core().V1().Pods().Informer()
	stop := make(chan struct{})
	defer close(stop)
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	settings := config.NodeControllerConfig{LeakGracePeriod: &meta.Duration{Duration: patience}}
	collector := node.NewIPAMController(settings, client, cluster, pods.GetIndexer(), nodes.GetIndexer())
	feed := node.NewDataFeed(client)
	collector.RegisterWith(feed)
	feed.Start()
	collector.Start(stop)
	time.Sleep(time.Duration(limit) * time.Second)
	return nil
}
